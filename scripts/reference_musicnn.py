"""Makes tests/towers/reference/musicnn.npz: what the original TensorFlow graph of musicnn computes.

Run once, in a virtual environment of its own (the project itself never needs TensorFlow):

    python -m venv /tmp/tfvenv
    /tmp/tfvenv/bin/pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0 librosa==0.11.0
    pip download --no-deps --only-binary=:all: musicnn==0.1.0 -d /tmp/musicnn
    unzip /tmp/musicnn/*.whl -d /tmp/musicnn
    /tmp/tfvenv/bin/python scripts/reference_musicnn.py /tmp/musicnn

The graph is the wheel's own `musicnn.models`; the mel input is librosa's with reflected edges (the default of the
librosa that musicnn was trained with; librosa 0.10 changed it to zeros) and in float32 (the original passes through
float16, which rounds, and overflows on loud music).
"""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 3 has no tf.compat.v1.layers

import numpy as np

STEP = 24  # every 24th frame of the activations is kept: small file, all channels


def signals() -> list[np.ndarray]:
    """Three deterministic signals, float32 at 16 kHz: a decaying arpeggio, drums with bass, a vibrato voice with noise.

    The test regenerates them by the same function, so they depend on nothing but numpy's frozen legacy generator.
    """
    rate = 16000

    def time(seconds):
        return np.arange(int(seconds * rate)) / rate

    t = time(3.0)
    arpeggio = np.zeros_like(t)
    for i, pitch in enumerate([60, 64, 67, 72, 67, 64] * 2):
        since = np.clip(t - 0.25 * i, 0, None)
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        for harmonic in range(1, 8):
            arpeggio += 0.1 / harmonic * np.sin(2 * np.pi * harmonic * frequency * since) * np.exp(-3 * since)

    t = time(6.5)
    noise = np.random.RandomState(7).uniform(-1, 1, len(t))
    beat = (t * 2.2) % 1 / 2.2
    drums = 0.3 * noise * np.exp(-40 * beat) + 0.2 * np.sign(np.sin(2 * np.pi * 55 * t)) * (0.5 + 0.5 * np.cos(3 * t))

    t = time(10.0)
    noise = np.random.RandomState(8).uniform(-1, 1, len(t))
    phase = 2 * np.pi * (220 * t + 60 * t**2 / 10) + 3 * np.sin(2 * np.pi * 5.5 * t)
    voice = 0.15 * np.sin(phase) + 0.1 * np.sin(2 * phase) + 0.08 * np.sin(5 * phase) + 0.01 * noise
    return [x.astype(np.float32) for x in (arpeggio, drums, voice)]


def mel(x: np.ndarray) -> np.ndarray:
    """[frames, 96] as musicnn/extractor.py `batch_data` makes it, without its detour through float16."""
    import librosa

    power = librosa.feature.melspectrogram(y=x, sr=16000, hop_length=256, n_fft=512, n_mels=96, pad_mode="reflect")
    return np.log10(10000 * power.T + 1).astype(np.float32)


def main(wheel: str) -> None:
    """Runs both shipped models on the signals and writes the reference beside the tests."""
    sys.path.insert(0, wheel)
    import tensorflow as tf
    from musicnn import configuration, models

    tf.compat.v1.disable_eager_execution()
    mels = [mel(x) for x in signals()]
    out = {f"mel_{i}": m[::STEP] for i, m in enumerate(mels)}
    for name in ("MTT", "MSD"):
        tf.compat.v1.reset_default_graph()
        with tf.name_scope("model"):
            x = tf.compat.v1.placeholder(tf.float32, [None, None, configuration.N_MELS])
            training = tf.compat.v1.placeholder(tf.bool)
            logits, timbral, temporal, cnn1, cnn2, cnn3, *_ = models.define_model(x, training, f"{name}_musicnn", 50)
            tags = tf.nn.sigmoid(logits)
            squeezed = [tf.squeeze(c, 3) if c.shape.rank == 4 else c for c in (cnn1, cnn2, cnn3)]
            features = tf.concat([timbral, temporal, *squeezed], 2)
        with tf.compat.v1.Session() as session:
            tf.compat.v1.train.Saver().restore(session, f"{wheel}/musicnn/{name}_musicnn/")
            for i, (signal, m) in enumerate(zip(signals(), mels, strict=True)):
                patches = np.stack([m[s : s + 187] for s in range(0, len(m) - 187 + 1, 187)])
                out[f"{name}_tags_{i}"] = session.run(tags, {x: patches, training: False})
                if name == "MTT":  # the whole signal as one patch, as MusicnnTower.forward sees it
                    whole = session.run(features, {x: m[None, : round(len(signal) / 256)], training: False})
                    out[f"{name}_features_{i}"] = whole[0, ::STEP]
    path = Path(__file__).parents[1] / "tests/towers/reference/musicnn.npz"
    np.savez_compressed(path, **{k: v.astype(np.float32) for k, v in out.items()})
    print({k: v.shape for k, v in out.items()}, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])
