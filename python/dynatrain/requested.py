"""A switch that was asked for ahead of the step boundary, and the future that tells how it went."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from dynatrain._errors import LayoutError, ends_job
from dynatrain.layout import Layout
from dynatrain.report import SwitchFuture, SwitchReport

_log = logging.getLogger("dynatrain.session")


class Requested:
    """A request of this rank.

    Attributes:
        layout: the target.
        future: what the caller was given.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.future: Future[SwitchReport] = SwitchFuture()

    def check_replaceable(self) -> None:
        """Raises LayoutError while the request stands; a cancelled one may be replaced."""
        if not self.future.cancelled():
            raise LayoutError(
                f"session: a switch to {self.layout} is already requested\n"
                "  expected one request at a time, until its future is done\n"
                "  nothing was changed; that request stands\n"
                "  wait for its future, or cancel it on all ranks"
            )

    def run(self, switch: Callable[[LayoutError | None], SwitchReport]) -> None:
        """Calls ``switch(problem)`` and tells the future how it went.

        A rank on which the future was cancelled comes to the call as well and refuses there, with
        ``problem``: the others would wait for it.

        Raises:
            what the future holds, where this rank must not train on.
        """
        # From here on nobody can cancel it any more.
        cancelled = None if self.future.set_running_or_notify_cancel() else self._cancelled()
        try:
            report = switch(cancelled)
        except BaseException as error:
            is_raised = not isinstance(error, Exception) or ends_job(error)
            if cancelled is None:
                self.future.set_exception(error)
            if not is_raised and error is not cancelled:
                # Nobody may ever ask the future, and the loop goes on as if nothing had happened.
                _log.warning("the requested switch to %s failed: %s", self.layout, error)
            if is_raised:
                raise
        else:
            self.future.set_result(report)

    def end(self) -> None:
        """No boundary follows at which it could be run."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(
                LayoutError(
                    f"session: it was closed before the requested switch to {self.layout}\n"
                    "  expected the loop over session.steps() to come to another boundary\n"
                    "  nothing was moved; the state stays as it is\n"
                    "  close the session behind the last step"
                )
            )

    def _cancelled(self) -> LayoutError:
        return LayoutError(
            f"session: the requested switch to {self.layout} was cancelled on this rank\n"
            "  expected its future to be cancelled on every rank, or on none\n"
            "  nothing was moved; the source state is intact\n"
            "  cancel it on all active ranks in the same step"
        )
