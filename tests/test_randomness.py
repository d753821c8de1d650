"""Random bytes come from a stock, and nobody gets the same ones: not a later call, another thread or a forked child."""

import os
import threading

from apps.randomness import random_bytes, random_uuid


def test_no_portion_comes_twice():
    portions = [random_bytes(16) for _ in range(1_000)]
    assert {len(portion) for portion in portions} == {16}
    assert len(set(portions)) == 1_000


def test_portions_of_any_size_are_whole():
    assert [len(random_bytes(count)) for count in (0, 1, 1_000, 30, 1_024, 7)] == [0, 1, 1_000, 30, 1_024, 7]


def test_threads_do_not_share():
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.extend(random_bytes(12) for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2_000


def test_a_forked_child_does_not_hand_out_what_its_parent_does():
    random_bytes(1)  # there is a stock to inherit
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, random_bytes(32))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 32) != random_bytes(32)


def test_uuids_are_of_version_4():
    made = {random_uuid() for _ in range(100)}
    assert len(made) == 100
    assert {one.version for one in made} == {4}
