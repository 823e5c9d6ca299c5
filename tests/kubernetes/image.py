"""Writes an image archive of one layer that `ctr images import` reads, for programs of the test cluster.

image.py OUT NAME[,NAME...] ENTRYPOINT SOURCE=DESTINATION...
"""

import hashlib
import io
import json
import sys
import tarfile


def archive(files):
    """Returns a tar archive of (name, content, mode), with the folders."""
    out, folders = io.BytesIO(), set()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, mode in files:
            parts = name.split("/")[:-1]
            for folder in ("/".join(parts[: n + 1]) for n in range(len(parts))):
                if folder not in folders:
                    folders.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


out, names, entrypoint, *pairs = sys.argv[1:]
files = []
for pair in pairs:
    source, destination = pair.split("=")
    with open(source, "rb") as file:
        files.append((destination.lstrip("/"), file.read(), 0o755))
layer = archive(files)
config = json.dumps({
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": [entrypoint], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(layer)]},
    "history": [{}],
}).encode()
manifest = [{"Config": digest(config) + ".json", "RepoTags": names.split(","), "Layers": [digest(layer) + "/layer.tar"]}]
with open(out, "wb") as file:
    file.write(archive([
        (digest(config) + ".json", config, 0o644),
        (digest(layer) + "/layer.tar", layer, 0o644),
        ("manifest.json", json.dumps(manifest).encode(), 0o644),
    ]))
