"""The files of one commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from release.git.program import Git


@dataclass
class CommitTree:
    """The files of one commit, read through git and remembered."""

    git: Git
    commit: str
    _contents: dict[str, bytes | None] = field(default_factory=dict)
    _paths: dict[str, tuple[str, str]] | None = None

    def read(self, path: str) -> bytes | None:
        """A file's bytes; None when the commit has no such file."""
        if path not in self._contents:
            entry = self._entries().get(path)
            self._contents[path] = self.git.run("cat-file", "blob", entry[1]) if entry else None
        return self._contents[path]

    def files(self, folder: str) -> list[str]:
        """Paths of all files below a folder, sorted."""
        prefix = folder.rstrip("/") + "/"
        return sorted(path for path in self._entries() if path.startswith(prefix))

    def mode(self, path: str) -> str:
        """A file's mode as git writes it; that of an ordinary file when there is none."""
        return self._entries().get(path, ("100644", ""))[0]

    def blob(self, path: str) -> str | None:
        """The id of a file's content."""
        entry = self._entries().get(path)
        return entry[1] if entry else None

    def preload(self, folder: str) -> None:
        """Read every file below a folder in one go: a process per file is what takes time."""
        paths = [path for path in self.files(folder) if path not in self._contents]
        blobs = self.git.run(
            "cat-file", "--batch", stdin="".join(f"{self.blob(p)}\n" for p in paths).encode()
        )
        position = 0
        for path in paths:
            end = blobs.index(b"\n", position)
            size = int(blobs[position:end].split()[2])
            self._contents[path] = blobs[end + 1 : end + 1 + size]
            position = end + 2 + size

    def _entries(self) -> dict[str, tuple[str, str]]:
        if self._paths is None:
            listed = self.git.run("ls-tree", "-r", "-z", self.commit)
            self._paths = {}
            for entry in listed.decode(errors="surrogateescape").split("\0"):
                if entry:
                    about, path = entry.split("\t", 1)
                    mode, _, blob = about.split(" ")
                    self._paths[path] = (mode, blob)
        return self._paths
