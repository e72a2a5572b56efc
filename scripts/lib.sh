# SPDX-License-Identifier: GPL-2.0
# Sourced by the other scripts: the folders, and steps that are announced, timed and explained when they fail.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RKVM_CACHE=${RKVM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rkvm}
export RKVM_CACHE
mkdir -p "$RKVM_CACHE/log" "$RKVM_CACHE/stamps" || {
	echo "the cache $RKVM_CACHE can't be made: set RKVM_CACHE to a folder that you can write to, with 8 GB of room" >&2
	exit 1
}
rkvm_began=${RKVM_BEGAN:-$(date +%s)}
export RKVM_BEGAN=$rkvm_began

# elapsed: minutes and seconds since the first script began.
elapsed() {
	local s=$(($(date +%s) - rkvm_began))
	printf '%d:%02d' $((s / 60)) $((s % 60))
}

say() {
	printf '[%5s] %s\n' "$(elapsed)" "$*"
}

die() {
	say "error: $*" >&2
	exit 1
}

# background COMMAND...: starts a command as a process group of its own, whose number is $job. A signal that ends this script
# ends the whole group before, which a shell alone does not do; also one that comes as soon as the command runs.
background() {
	local signal before=${!:-}
	for signal in INT TERM HUP; do
		# shellcheck disable=SC2064
		trap "end_background '$before' $signal" $signal
	done
	set -m
	"$@" &
	job=$!
	set +m
}

# end_background BEFORE SIGNAL: BEFORE is what was started before the command, if anything was.
end_background() {
	trap '' INT TERM HUP
	if [ "${!:-}" != "$1" ]; then
		kill -s TERM -- "-$!" 2>/dev/null || true
		wait "$!" 2>/dev/null || true
	fi
	trap - "$2"
	kill -s "$2" "$BASHPID"
}

# foreground: waits for that command and has its status.
foreground() {
	local status=0
	wait "$job" || status=$?
	trap - INT TERM HUP
	return $status
}

# step NAME ADVICE COMMAND...: runs the command with its output in a log, says every now and then that it is
# still at it, and on failure shows the end of the log and the advice.
step() {
	local name=$1 advice=$2 log began status=0 next job
	shift 2
	log=$RKVM_CACHE/log/${name//[^A-Za-z0-9]/-}.log
	say "$name ..."
	began=$(date +%s)
	background "$@" >"$log" 2>&1 </dev/null
	next=20
	while kill -0 "$job" 2>/dev/null; do
		sleep 0.2
		if [ $(($(date +%s) - began)) -ge $next ]; then
			next=$((next + 20))
			say "$name: $(tail -n 1 "$log" | tr -d '\0\r' | cut -c 1-100)"
		fi
	done
	foreground || status=$?
	if [ $status != 0 ]; then
		tail -n 30 "$log" | sed 's/^/    | /' >&2
		say "step \"$name\" failed with status $status; all of its output: ${RKVM_CACHE_OUTSIDE:-$RKVM_CACHE}${log#"$RKVM_CACHE"}" >&2
		say "what to do: $advice" >&2
		exit 1
	fi
	say "$name: done in $(($(date +%s) - began)) s"
}

# Stamps say what went into a step that is done, so that it is done again only when that changes.
stamped() {
	[ -f "$RKVM_CACHE/stamps/$1" ] && [ "$(cat "$RKVM_CACHE/stamps/$1")" = "$2" ]
}

stamp() {
	printf '%s\n' "$2" >"$RKVM_CACHE/stamps/$1"
}
