"""Reads initial RAM disks back, by the description of their format."""


def read_back(archive):
    """(path, mode, links, device, content) of each record, ending with the trailer."""
    records, at = [], 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        path = archive[at + 110 : at + 109 + name_size].decode()
        start = at + 110 + name_size
        start += -start % 4
        at = start + size + -(start + size) % 4
        records.append((path, fields[1], fields[4], (fields[9], fields[10]), archive[start : start + size]))
        if path == "TRAILER!!!":
            assert at == len(archive)
            return records
