"""Keys: every random choice of an experiment has a stream of its own, named by what it decides.

A key is a hash of the names and numbers that identify one choice, so it depends neither on the order in which
choices are made, nor on the process that makes them, nor on how many workers run; and arms of one experiment
that name the same choice get the same noise. Nothing here reads or moves a global generator.

The streams in use, by their first part:

================  ====================================  ==================================================
stream            further parts                         decides
================  ====================================  ==================================================
`initialisation`  run seed                              weights that a run adds to its policy (an adapter)
`data order`      run seed                              which problems a step asks for
`rollout`         run seed, step, problem id, sample    the tokens of one training rollout
`random reward`   rollout key                           the reward of a rollout, where rewards say nothing
`false verdict`   rollout key                           whether a verifier that is degraded on purpose errs on it
`credit`          seed, step, group, sample in it       draws of a credit method (the random control)
`evaluation`      task, problem id, sample              the tokens of one evaluation sample
`continuation`    rollout key, prefix length, number    the tokens of one continuation of a rollout's prefix
`cut`             rollout key, token                    which unsure tokens a response is cut before
`ranking`         rollout key, token                    a ranking of tokens at random, beside those of methods
`value`           run seed, step, problem id, prefix,   the tokens of one continuation that a credit method asks
                  number                                for
`intervention`    task, problem id, sample              the tokens that follow a masked response, in every arm
`masking`         task, problem id, sample              the order in which tokens are hidden at random
`edges`           problem id, sample                    a ranking of positions at random, beside what maps rank
`projection`      nothing                               the signs that gradients are projected with
`bootstrap`       study                                 which problems a bootstrap draws
================  ====================================  ==================================================

The evaluation stream names no step and no method: every checkpoint of every arm is asked with the same noise.
"""

from __future__ import annotations

from hashlib import blake2b

KEY_BITS = 128


def key(*parts: str | int) -> str:
    """The key of the choice that `parts` identify: 32 hexadecimal digits (128 bits, BLAKE2b).

    Each part is hashed with its type and its length, so `("a", "b")`, `("ab",)`, `("1",)` and `(1,)` are
    four keys. Raises TypeError for no parts at all and for a part that is neither text nor an integer: a
    float or an object prints differently on another machine.
    """
    if not parts:
        raise TypeError("a key needs at least one part")
    digest = blake2b(digest_size=KEY_BITS // 8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise TypeError(f"a key is made of text and integers, not {type(part).__name__}: {part!r}")
        content = str(part).encode()
        digest.update(f"{'text' if isinstance(part, str) else 'integer'}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def integer(key: str, bits: int = 32) -> int:
    """The first `bits` (1 to 128) bits of a key as an integer, for generators that take a number as seed."""
    if not 1 <= bits <= KEY_BITS:
        raise ValueError(f"a key has {KEY_BITS} bits, not {bits}")
    if len(key) != KEY_BITS // 4:
        raise ValueError(f"not a key of {KEY_BITS // 4} hexadecimal digits: {key!r}")
    return int(key, 16) >> (KEY_BITS - bits)
