"""`verify: true`: the claims of an answer, held against the music that the request shows."""

from __future__ import annotations

from typing import Any

from mllm.audio import load_audio
from mllm.audio_checks import Recording
from mllm.claims import find_claims
from mllm.errors import PromptError
from mllm.estimators import RATE
from mllm.serve.errors import ApiError
from mllm.serve.media import MediaReader, Shown
from mllm.verification import verify


class Verifier:
    """Verifies the answers to one request; what estimators said of its recordings is kept for its other choices."""

    def __init__(self, media: MediaReader, shown: Shown):
        if not shown.media:
            raise PromptError("verify: there is no recording and no score to hold the answer against")
        self._in_thread, self._shown = media.in_thread, shown
        self._read: list[Any] | None = None

    async def verdicts(self, answer: str) -> list[dict[str, Any]]:
        """One for each claim; none where the answer claims nothing."""
        return await self._in_thread(self._verify, answer)

    def _verify(self, answer: str) -> list[dict[str, Any]]:
        if not find_claims(answer, self._shown.question):
            return []
        try:
            if self._read is None:
                self._read = [
                    Recording(load_audio(one, RATE)) if isinstance(one, bytes) else one for one in self._shown.media
                ]
            return [verdict.to_dict() for verdict in verify(answer, self._read, question=self._shown.question)]
        except ModuleNotFoundError as error:
            raise ApiError("this server cannot verify what is said of recordings: `pip install 'mllm[eval]'`", 501,
                           "not_installed", kind="server_error", param="verify") from error  # fmt: skip
