# SPDX-License-Identifier: GPL-2.0
# Sourced by the gates.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# none WHAT: the standard input, findings one a line, has to be empty.
none() {
	local found
	found=$(cat)
	if [ -z "$found" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1"
		printf '%s\n' "$found" | head -n 40 | sed 's/^/#   /'
	fi
}

# succeeds WHAT COMMAND...: the command has to succeed; its output is shown if it does not.
succeeds() {
	local what=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "ok - $what"
	else
		echo "not ok - $what"
		printf '%s\n' "$output" | tail -n 60 | sed 's/^/#   /'
	fi
}

# sources FOLDER...: Rust sources that are committed or about to be, but not the generated ones.
sources() {
	git ls-files --cached --others --exclude-standard -- "$@" | grep '\.rs$' | while read -r file; do
		[ ! -f "$file" ] || echo "$file"
	done
}

# code FILE...: lines "file:number:code" without comments.
code() {
	awk '{ sub(/\/\/.*/, ""); if ($0 ~ /[^ \t]/) print FILENAME ":" FNR ":" $0 }' "$@"
}
