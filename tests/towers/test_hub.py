"""Any encoder of transformers as a tower: tiny random checkpoints, saved with their own feature extractors."""

import json

import pytest
import torch
import transformers as tf

from mllm.errors import WeightsError
from mllm.feature_extraction import build_extractor
from mllm.towers import HubTower, StackConfig, StackTower, load_tower

SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
CONVS = {"conv_dim": (16,) * 7, **SPEECH}


def whisper():
    size = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 20, "vocab_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = tf.WhisperModel(tf.WhisperConfig(**size, **heads, **ids, max_source_positions=250, max_target_positions=16))
    return model, tf.WhisperFeatureExtractor(feature_size=20, chunk_length=5)


def ast():
    config = tf.ASTConfig(**{k: SPEECH[k] for k in list(SPEECH)[:4]}, num_mel_bins=32, max_length=500)
    return tf.ASTModel(config), tf.ASTFeatureExtractor(num_mel_bins=32, max_length=500)


def clap():
    audio = tf.ClapAudioConfig(
        patch_embeds_hidden_size=8,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        hidden_size=64,
        num_mel_bins=64,
    )
    text = tf.ClapTextConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    config = tf.ClapConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), projection_dim=16)
    return tf.ClapModel(config), tf.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")


def dac():
    config = tf.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=16, n_codebooks=2, hidden_size=64
    )
    return tf.DacModel(config), tf.DacFeatureExtractor(sampling_rate=16000, hop_length=config.hop_length)


# name -> model and extractor, window (s), frames of its own in one window, hidden size
CASES = {
    "hubert": (lambda: (tf.HubertModel(tf.HubertConfig(**CONVS)), tf.Wav2Vec2FeatureExtractor()), 10.0, 499, 32),
    "wav2vec2": (lambda: (tf.Wav2Vec2Model(tf.Wav2Vec2Config(**CONVS)), tf.Wav2Vec2FeatureExtractor()), 10.0, 499, 32),
    "wavlm": (lambda: (tf.WavLMModel(tf.WavLMConfig(**CONVS)), tf.Wav2Vec2FeatureExtractor()), 10.0, 499, 32),
    "wav2vec2-bert": (
        lambda: (tf.Wav2Vec2BertModel(tf.Wav2Vec2BertConfig(**SPEECH)), tf.SeamlessM4TFeatureExtractor()),
        10.0,
        499,
        32,
    ),
    "whisper": (whisper, 5.0, 250, 32),
    "ast": (ast, 5.0, 49, 32),
    "clap": (clap, 10.0, 32, 64),
    "encodec": (
        lambda: (tf.EncodecModel(tf.EncodecConfig(hidden_size=16, num_filters=4)), tf.EncodecFeatureExtractor()),
        10.0,
        750,
        16,
    ),
    "dac": (dac, 10.0, 500, 64),
}


def save(folder, name):
    torch.manual_seed(0)
    model, extractor = CASES[name][0]()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def hear(tower, waveforms):
    """What the project's feature extractor does: the encoder's own extractor, rebuilt from the tower's config."""
    extractor = build_extractor(tower.config.feature_extractor)
    out = extractor(
        [w.numpy() for w in waveforms],
        sampling_rate=tower.config.sampling_rate,
        return_tensors="pt",
        padding="longest",
    )
    return tower(out[extractor.model_input_names[0]]).last_hidden_state


def noise(tower, count):
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(
        count, round(tower.config.window_seconds * tower.config.sampling_rate), generator=generator
    )


@pytest.mark.parametrize("name", CASES)
def test_gives_its_own_frames_and_any_other_grid(tmp_path, name):
    _, seconds, frames, hidden = CASES[name]
    tower = load_tower(save(tmp_path, name))
    assert tower.config.window_seconds == seconds
    assert tower.config.hidden_size == hidden
    waveforms = noise(tower, 2)
    out = hear(tower, waveforms)
    assert out.shape == (2, tower.config.window_frames, hidden)
    assert abs(out.shape[1] - frames) <= 1
    assert out.isfinite().all()
    heard = (out[0] - out[1]).abs().max()
    assert heard > 1e-3 * out.std(), "it does not listen"  # relative: a random DAC answers with 1e-6
    assert (hear(tower, waveforms[:1])[0] - out[0]).abs().max() < 0.05 * heard, "the batch changes the result"
    assert not any(p.requires_grad for p in tower.parameters()) and not tower.training

    coarse = load_tower(tmp_path, frames_per_second=4.0)
    assert hear(coarse, waveforms).shape == (2, round(4 * seconds), hidden)


@pytest.mark.parametrize("name", ["hubert", "whisper", "clap", "encodec"])
def test_saved_and_loaded_is_the_same(tmp_path, name):
    tower = load_tower(save(tmp_path / "original", name))
    tower.save_pretrained(tmp_path / "ours")
    again = load_tower(tmp_path / "ours")
    assert isinstance(again, HubTower)
    waveforms = noise(tower, 1)
    torch.testing.assert_close(hear(again, waveforms), hear(tower, waveforms))


def test_a_layer_can_be_chosen(tmp_path):
    folder = save(tmp_path, "hubert")
    first, second, last = (load_tower(folder, layer=layer) for layer in (0, 2, -1))
    waveforms = noise(last, 1)
    assert (hear(first, waveforms) - hear(last, waveforms)).abs().max() > 1e-3
    torch.testing.assert_close(hear(second, waveforms), hear(last, waveforms))


def test_bfloat16(tmp_path):
    tower = load_tower(save(tmp_path, "hubert"), dtype=torch.bfloat16)
    assert hear(tower, noise(tower, 1)).dtype == torch.bfloat16


def test_a_mert_checkpoint_loads_as_hubert_without_its_code(tmp_path):
    save(tmp_path, "hubert")
    config = json.loads((tmp_path / "config.json").read_text())
    plain = load_tower(tmp_path)
    config |= {"model_type": "mert_model", "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_MERT.py").write_text("raise SystemExit('remote code ran')")
    tower = load_tower(tmp_path)
    waveforms = noise(tower, 1)
    torch.testing.assert_close(hear(tower, waveforms), hear(plain, waveforms))


def test_a_waveform_encoder_can_stand_in_a_stack(tmp_path):
    hub = load_tower(save(tmp_path, "wav2vec2"), window_seconds=2.0)
    stack = StackTower.from_towers([hub, load_tower("tempogram")], window_seconds=2.0, frames_per_second=10.0)
    out = stack(0.1 * torch.randn(2, 44100)).last_hidden_state
    assert out.shape == (2, 20, 32 + 192)
    assert StackConfig.from_dict(stack.config.to_dict()).hidden_size == 32 + 192


def test_unknown_architecture_and_pickled_weights_are_one_clear_line(tmp_path):
    save(tmp_path, "hubert")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="safetensors") as caught:
        load_tower(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch"}))
    with pytest.raises(WeightsError, match="nonesuch"):
        load_tower(tmp_path)
    with pytest.raises(WeightsError, match="config.json"):
        load_tower(tmp_path.parent)


def test_unknown_name_names_the_nearest():
    with pytest.raises(WeightsError, match="musicnn"):
        load_tower("music-nn")
