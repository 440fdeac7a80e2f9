#!/usr/bin/env bash
# scripts/timed.sh NAME COMMAND ...: run the command, and say in a line how many seconds it took; $TIMES names a file that collects these lines.
name="$1"
shift
start="$SECONDS"
"$@"
code="$?"
[ "$code" = 0 ] && end="" || end=", failed with $code"
line="part $name: $((SECONDS - start)) s$end"
echo "$line"
[ -z "${TIMES:-}" ] || echo "$line" >> "$TIMES"
exit "$code"
