"""`unzip watch`: archives as SQS, NATS or a webhook tell of them, and by listing in any case."""

from __future__ import annotations

import queue
import threading

from kit.telemetry import logs
from unzip.processing.service import Service

log = logs.get("unzip.watch")
_WAITING = 10_000


class Watcher:
    """Keys from any side, each processed once at a time; a full queue is left to the listing."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys: queue.Queue[str] = queue.Queue(_WAITING)
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def offer(self, key: str) -> bool:
        """Have ``key`` processed. False: no room."""
        try:
            self._keys.put_nowait(key)
        except queue.Full:
            return False
        return True

    def start(self) -> None:
        """Begin working in threads of our own."""
        work = [self._work] * self._service.settings.archives_at_once
        for target in (*work, self._list):
            thread = threading.Thread(target=target, name=f"watch-{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        """Wait until what is under way has ended; the service's Stop makes it end."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                key = self._keys.get(timeout=0.2)
            except queue.Empty:
                continue
            with self._lock:
                if key in self._under_way:
                    continue  # a second notification of what is being read; the listing is behind
                self._under_way.add(key)
            try:
                self._service.process_key(key)
            except Exception as error:
                log.error("event failed", key=key, error=str(error))
            finally:
                with self._lock:
                    self._under_way.discard(key)

    def _list(self) -> None:
        """Events get lost: the bucket is listed at the start and now and then."""
        stop = self._service.stop.requested
        while not stop.is_set():
            try:
                tally = self._service.sweep()
                log.info("listed", found=tally.found, outcomes=tally.outcomes)
            except Exception as error:
                log.error("listing failed", error=str(error))
            stop.wait(self._service.settings.watch_list_seconds)
