"""Protects the keyed noise: the published generator, standard Gumbel numbers, and a number for each key, position and
token that nothing else can change.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch

from harness import seeds
from harness.engines import noise, philox

KEYS = [seeds.key("noise", index) for index in range(5)]


def philox_by_hand(counter, key):
    """Philox4x32-10 in NumPy's 64-bit words, for reading: Salmon et al. 2011, section 4.3 and figure 5."""
    c = [np.uint64(word) for word in counter]
    k = [np.uint64(word) for word in key]
    word = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        low, high = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (high >> np.uint64(32)) ^ c[1] ^ k[0],
            high & word,
            (low >> np.uint64(32)) ^ c[3] ^ k[1],
            low & word,
        ]
        k = [(k[0] + np.uint64(0x9E3779B9)) & word, (k[1] + np.uint64(0xBB67AE85)) & word]
    return [int(part) for part in c]


def gumbel_by_hand(key, position, token):
    """The noise of one token, from its key's 32 hexadecimal digits."""
    words = [int(key[start : start + 8], 16) for start in range(0, 32, 8)]
    word = philox_by_hand((token // 4, position, words[2], words[3]), words[:2])[token % 4]
    return np.float32(-np.log(-np.log((word + 0.5) / 2**32)))


# Known answers that the authors publish with their code (Random123, kat_vectors): counter, key, output.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_the_generator_gives_the_published_answers(counter, key, expected):
    ours = philox.philox(
        tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor([word]) for word in key)
    )
    assert [int(word) for word in ours] == list(expected) == philox_by_hand(counter, key)


def test_every_number_is_that_of_the_reference():
    drawn = noise.gumbel(noise.words(KEYS), torch.tensor([0, 3, 70_000]), 10)
    assert drawn.shape == (5, 3, 10) and drawn.dtype == torch.float32
    for row, key in enumerate(KEYS):
        for column, position in enumerate((0, 3, 70_000)):
            expected = [gumbel_by_hand(key, position, token) for token in range(10)]
            assert drawn[row, column].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_numbers_are_standard_gumbel():
    drawn = noise.gumbel(noise.words(KEYS), torch.arange(500), 40).double().numpy().ravel()
    assert abs(drawn.mean() - np.euler_gamma) < 0.02 and abs(drawn.var() - np.pi**2 / 6) < 0.04
    assert scipy.stats.kstest(drawn, scipy.stats.gumbel_r.cdf).pvalue > 1e-3
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize("word", [0, 1, 0xFFFFFFFE, 0xFFFFFFFF])
def test_the_ends_of_the_uniform_numbers_are_finite(word, monkeypatch):
    """A number that is exactly 0 or 1 would make its token win always, or never."""
    monkeypatch.setattr(noise, "philox", lambda counter, key: (torch.full((1, 1), word),) * 4)
    drawn = noise.gumbel(noise.words(KEYS[:1]), torch.tensor([0]), 1)
    assert drawn.item() == pytest.approx(-np.log(-np.log((word + 0.5) / 2**32)), rel=1e-6)


@pytest.mark.parametrize("at_once", [4, 64, 2**15])
def test_a_number_does_not_depend_on_what_is_drawn_with_it(at_once, monkeypatch):
    whole = noise.gumbel(noise.words(KEYS), torch.arange(9), 45)
    monkeypatch.setitem(noise.AT_ONCE, "cpu", at_once)
    assert torch.equal(noise.gumbel(noise.words(KEYS), torch.arange(9), 45), whole)
    assert torch.equal(noise.gumbel(noise.words(KEYS[2:4]), torch.tensor([7, 2]), 45), whole[2:4][:, [7, 2]])
    assert torch.equal(noise.gumbel(noise.words(KEYS), torch.arange(9), 7), whole[..., :7])


@pytest.mark.parametrize("ahead", [1, 300, 2**16])
def test_drawing_ahead_changes_nothing_and_rows_may_end(ahead, monkeypatch):
    monkeypatch.setattr(noise, "AHEAD", ahead)
    whole = noise.gumbel(noise.words(KEYS), torch.arange(12), 30)
    drawn = noise.Noise(KEYS, 12, 30, torch.device("cpu"))
    running = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 3, 4], [1, 3, 4], [3], [3], [3], [3], [3], [3], [3], [3]]
    for position, rows in enumerate(running):
        assert torch.equal(drawn.at(position, rows)[rows], whole[rows, position])


def test_the_kernel_draws_the_same_numbers():
    """In Triton's interpreter, in a process of its own: it is chosen when triton is imported."""
    pytest.importorskip("triton")
    script = (
        "import torch; from harness import seeds; from harness.engines import noise, noise_kernel\n"
        "keys = noise.words([seeds.key('noise', index) for index in range(3)])\n"
        "for positions, vocabulary in ((torch.tensor([0, 5, 70000]), 1030), (torch.tensor([2]), 1)):\n"
        "    ours, theirs = (part.gumbel(keys, positions, vocabulary) for part in (noise, noise_kernel))\n"
        "    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)\n"
        "print('same')\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_kernel_draws_the_same_numbers_on_a_gpu():
    positions = torch.tensor([0, 5, 70000])
    ours = noise.gumbel(noise.words(KEYS), positions, 5000)
    theirs = noise.gumbel(noise.words(KEYS, "cuda"), positions.cuda(), 5000).cpu()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
