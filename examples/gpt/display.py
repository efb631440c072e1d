"""What the demo shows in the terminal: a progress bar, a line per switch, the comparison."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dynatrain import Layout, SwitchReport

from .job import JobConfig

WIDTH = 132
HEADINGS = (
    f"  {'switch':<28} {'target':<9}{'stop':>8}{'transfer':>10}{'build':>9}"
    f"{'moved':>10}{'bound':>10}{'kept':>10}{'peak +':>10}   fingerprint"
)


class Display:
    """The terminal of rank 0; shows nothing when `quiet`, so that every rank may call it."""

    def __init__(self, config: JobConfig, *, quiet: bool) -> None:
        self.console = Console(quiet=quiet, highlight=False)
        self.total_steps = config.total_steps
        if not self.console.is_terminal:
            self.console.width = WIDTH

    def start(self, layouts: Sequence[Layout]) -> None:
        """Open the progress bar of a run through `layouts`."""
        switching = len(layouts) > 1
        if switching:
            text = "Training, and switching the layout while it trains"
            self.line(f"[bold]{text}[/]: {' → '.join(map(str, layouts))}")
            self.line(f"[dim]{HEADINGS}[/]")
        else:
            self.line(f"[bold]Training without a switch[/]: {layouts[0]}")
        self.progress = Progress(
            TextColumn("  {task.fields[layout]:<12}"),
            BarColumn(bar_width=40),
            TextColumn("step {task.completed:>3.0f} of {task.total:.0f}"),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        task = {"total": self.total_steps, "layout": str(layouts[0]), "loss": "  -   "}
        self.task = self.progress.add_task("", **task)  # type: ignore[arg-type]
        self.progress.start()

    def step(self, steps_done: int, loss: float, layout: Layout) -> None:
        """Move the bar on."""
        self.progress.update(
            self.task, completed=steps_done, loss=f"{loss:.4f}", layout=str(layout)
        )

    def switch(self, report: SwitchReport) -> None:
        """Print one switch on one line, above the bar."""
        same = report.fingerprint_before == report.fingerprint_after
        mark = "[green]= same after[/]" if same else f"[red]≠ {report.fingerprint_after}[/]"
        self.line(
            f"  {f'{report.source} → {report.target}':<28} "
            f"{'prepared' if report.prepared else 'cold':<9}"
            f"[bold]{milliseconds(report.stop_seconds):>8}[/]"
            f"{milliseconds(report.transfer_seconds):>10}{milliseconds(report.build_seconds):>9}"
            f"{mebibytes(report.bytes_moved):>10}{mebibytes(report.lower_bound_bytes):>10}"
            f"{mebibytes(report.bytes_kept):>10}{mebibytes(report.extra_peak_bytes):>10}"
            f"   {report.fingerprint_before} {mark}"
        )
        for reason in report.not_continuous:
            self.line(f"  [red]not continuous:[/] {reason}")

    def stop(self) -> None:
        """Close the bar."""
        self.progress.stop()

    def compare(self, layouts: Sequence[str], losses: list[float], still: list[float]) -> None:
        """Show both loss curves, one row per layout, and say why they are not equal."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("loss after")
        headings = ("layout", "switching", f"always {layouts[0]}", "largest gap so far")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "layout" else "right")
        gaps = [abs(a - b) for a, b in zip(losses, still, strict=True)]
        steps = len(losses) // len(layouts)
        for end, layout in zip(range(steps, len(losses) + 1, steps), layouts, strict=True):
            row = (f"{losses[end - 1]:.6f}", f"{still[end - 1]:.6f}", f"{max(gaps[:end]):.1e}")
            table.add_row(f"{end} steps", layout, *row)
        self.console.print(table)
        self.line(
            "A gap is rounding: each layout adds the same float32 numbers in another order, and\n"
            "training amplifies it. The switches themselves changed no bit (fingerprints above)."
        )

    def line(self, text: str) -> None:
        """Print without wrapping."""
        self.console.print(text, soft_wrap=True)


def milliseconds(seconds: float) -> str:
    """Format a time."""
    return f"{seconds * 1e3:.0f} ms"


def mebibytes(size_bytes: int) -> str:
    """Format a size."""
    return f"{size_bytes / 2**20:.2f} MiB"
