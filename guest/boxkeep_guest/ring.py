"""Where a stream's bytes lie in its file: a head that stays, then a ring of the latest; pure arithmetic."""

GIB = 1024**3


class Budget:
    """Bytes that the heads of one process's streams may still take together."""

    def __init__(self, left: int = GIB) -> None:
        self.left = left

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes are granted."""
        granted = min(wanted, self.left)
        self.left -= granted
        return granted


class Layout:
    """The places of a growing stream. File position = offset within the head, then `head + (offset - head) % ring`."""

    def __init__(self, budget: Budget, ring: int = GIB // 2) -> None:
        self._budget = budget
        self.ring = ring
        self.total = 0
        self.head: int | None = None

    @classmethod
    def ended(cls, total: int, head: int | None, ring: int) -> "Layout":
        """The layout of a stream that is finished."""
        layout = cls(Budget(0), ring)
        layout.total, layout.head = total, head
        return layout

    def place(self, length: int) -> list[tuple[int, int, int]]:
        """Append `length` bytes: pieces `(file position, from, to)` of them to be written, in order."""
        start, pieces, done = self.total, [], 0
        self.total += length
        if self.head is None:
            done = self._budget.take(length)
            if done:
                pieces.append((start, 0, done))
            if done < length:
                self.head = start + done
        if self.head is None or not self.ring:
            return pieces
        done = max(done, length - self.ring)
        while done < length:
            at = (start + done - self.head) % self.ring
            end = min(length, done + self.ring - at)
            pieces.append((self.head + at, done, end))
            done = end
        return pieces

    def full(self, offset: int) -> None:
        """Nothing from `offset` on could be written: what lies there, and all that comes, counts as dropped."""
        if self.head is None or self.head > offset:
            self.head = offset
        self.ring = 0

    @property
    def dropped(self) -> tuple[int, int] | None:
        """The range of offsets that is no longer there, or None."""
        if self.head is None or self.total - self.head <= self.ring:
            return None
        return self.head, self.total - self.ring

    def find(self, offset: int, most: int) -> tuple[int, int, int]:
        """What can be read next from `offset`: `(offset, file position, length)`; the dropped range is skipped."""
        dropped = self.dropped
        if dropped and dropped[0] <= offset < dropped[1]:
            offset = dropped[1]
        length = max(0, min(most, self.total - offset))
        if self.head is None or offset < self.head:
            end = self.total if self.head is None else self.head
            return offset, offset, min(length, end - offset)
        if not self.ring:
            return self.total, 0, 0
        at = (offset - self.head) % self.ring
        return offset, self.head + at, min(length, self.ring - at)
