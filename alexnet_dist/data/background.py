"""A generator that runs ahead of its consumer in a thread."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Background(Generic[Item]):
    """Iterates over `items` in a thread, `ahead` items before the consumer, and hands them on in order.

    An exception in the thread is raised by the `next` that would have returned the item.
    """

    def __init__(self, items: Generator[Item, None, None], *, ahead: int, name: str) -> None:
        self._items = items
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._asked: deque[Future[Item]] = deque(self._thread.submit(next, items) for _ in range(ahead))

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        try:
            self._asked.append(self._thread.submit(next, self._items))
        except RuntimeError:
            raise RuntimeError("next() on a feed that is closed") from None
        return self._asked.popleft().result()

    def close(self) -> None:
        """End the thread and close the generator; waits for the item that it has begun. May be called twice."""
        self._thread.shutdown(cancel_futures=True)
        self._asked.clear()
        self._items.close()
