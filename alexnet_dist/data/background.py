"""A generator that runs ahead of its consumer in a thread."""

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Iterates over `items` in a thread, `ahead` items before the consumer, and hands them on in order.

    An exception in the thread is raised by the `next` that would have returned the item.
    """

    def __init__(self, items: Generator[Item, None, None], *, ahead: int, name: str) -> None:
        self._items = items
        self._wanted = ahead
        self._made = 0
        self._ready: deque[Item] = deque()
        self._end: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            if self._closed:
                raise RuntimeError("next() on a feed that is closed")
            self._wanted += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ready or self._end)
            if self._ready:
                return self._ready.popleft()
            assert self._end is not None
            if isinstance(self._end, StopIteration):
                raise StopIteration  # a new one: a kept one's traceback would keep the frames, and they this object
            raise self._end

    def close(self) -> None:
        """End the thread and close the generator; waits for the item that it has begun. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def _run(self) -> None:
        try:
            while self._may_go_on():
                item = next(self._items)
                with self._changed:
                    self._ready.append(item)
                    self._made += 1
                    self._changed.notify_all()
        except StopIteration:
            self._finish(StopIteration())
        except BaseException as error:
            self._finish(error)
        finally:
            self._items.close()

    def _finish(self, error: BaseException) -> None:
        with self._changed:
            self._end = error
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        """Waits for a wish; false when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._made < self._wanted or self._closed)
            return not self._closed
