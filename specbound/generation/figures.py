"""What a generation's counts say, in words. Knows no model."""

from collections.abc import Mapping


def accepted_from(by_source: Mapping[str, int]) -> str:
    """`accepted from context 6 (75%), exit 2 (25%)`: who proposed the drafts that were kept, most first."""
    if not by_source:
        return "no draft accepted"
    total = sum(by_source.values())
    ordered = sorted(by_source.items(), key=lambda item: -item[1])
    return "accepted from " + ", ".join(f"{source} {count} ({count / total:.0%})" for source, count in ordered)
