"""Holds organisations to their rates of calls, in memory: a restart forgives."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from boxkeep_server.model.errors import RateLimited
from boxkeep_server.model.rates import RATES, Bucket, CallKind, Rate

MOST_BUCKETS = 100_000


class Rates:
    """The buckets of all organisations. `limited` false lifts every limit."""

    def __init__(
        self, now_s: Callable[[], float], *, limited: bool = True, rates: Mapping[CallKind, Rate] = RATES
    ) -> None:
        self._now_s = now_s
        self._limited = limited
        self._rates = rates
        self._buckets: OrderedDict[tuple[str, CallKind], Bucket] = OrderedDict()

    async def take(self, organisation: str, kind: CallKind) -> None:
        """Count one call.

        Raises:
            RateLimited: there were too many.
        """
        if not self._limited:
            return
        now_s = self._now_s()
        bucket = self._buckets.setdefault((organisation, kind), Bucket.full(self._rates[kind], now_s))
        self._buckets.move_to_end((organisation, kind))
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if wait_s := bucket.take(now_s):
            raise RateLimited(wait_s)
