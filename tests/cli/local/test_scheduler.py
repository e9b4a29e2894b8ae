"""Whether the scheduler's groups are recognised, in files as Linux writes them."""

import pytest

from tamatar_auth.cli.local.scheduler import uses_autogroups

V1 = "9:name=systemd:/\n1:cpu:{path}\n0::/\n"
V2 = "0::{path}\n"


@pytest.fixture
def machine(tmp_path):
    """Write the files of a machine; return its root."""

    def write(switch, groups, *weights):
        folder = tmp_path / "proc/sys/kernel"
        folder.mkdir(parents=True)
        (folder / "sched_autogroup_enabled").write_text(f"{switch}\n")
        (tmp_path / "proc/self").mkdir()
        (tmp_path / "proc/self/cgroup").write_text(groups)
        for weight in weights:
            place = tmp_path / "sys/fs/cgroup" / weight
            place.mkdir(parents=True, exist_ok=True)
            (place / "cpu.weight").write_text("100\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("switch", "groups", "weights", "expected"),
    [
        (0, V2.format(path="/"), [], False),
        (1, V2.format(path="/"), [], True),
        (1, V2.format(path="/system.slice/auth.service"), ["system.slice"], False),
        (1, V2.format(path="/user.slice/session"), ["system.slice"], True),
        (1, V2.format(path="/"), [""], False),  # a container sees its own folder as the root
        (1, V1.format(path="/"), [], True),
        (1, V1.format(path="/docker/0123"), [], False),
    ],
)
def test_autogroups_apply_outside_of_control_groups(machine, switch, groups, weights, expected):
    assert uses_autogroups(machine(switch, groups, *weights)) is expected


def test_autogroups_on_other_system_are_not_used(tmp_path):
    assert uses_autogroups(tmp_path) is False
