"""Whether Linux schedules each connection of PostgreSQL as a group of its own."""

from pathlib import Path


def uses_autogroups(root: Path = Path("/")) -> bool:
    """Return whether the scheduler groups processes by session, and this process too.

    It does so if `kernel.sched_autogroup_enabled` is on, for processes that are in no control
    group of the CPU. `root` is the root of the file system.
    """
    try:
        if (root / "proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "0":
            return False
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system than Linux
        return False
    found = (line.split(":", 2) for line in groups)
    paths = {controllers: path for _, controllers, path in found}
    for controllers, path in paths.items():
        if "cpu" in controllers.split(","):
            return path == "/"
    # Version 2: a folder has a weight if the CPU's controller is enabled for it. In a container
    # the path begins at the container's own folder.
    top = root / "sys/fs/cgroup"
    folder = top / paths.get("", "/").lstrip("/")
    parents = (each for each in folder.parents if each.is_relative_to(top))
    return not any((each / "cpu.weight").exists() for each in (folder, *parents))
