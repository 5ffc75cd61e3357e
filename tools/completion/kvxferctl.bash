# SPDX-License-Identifier: Apache-2.0
# Completion of kvxferctl for bash. What there is to complete is asked of the program itself: the
# commands and options of --help, and an engine's ids of the engine.

# Which engine the words so far name, as words to ask it.
_kvxferctl_engine() {
	local i word
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case $word in
		--socket | --url | --secret)
			# bash parts a word at "=".
			[[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
			((++i < COMP_CWORD)) && printf '%s\n' "$word" "${COMP_WORDS[i]}"
			;;
		esac
	done
}

# The words before the cursor that are no options: those of the command, then its arguments.
_kvxferctl_words() {
	local i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket | --url | --secret | --from | --to)
			[[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
			((i++))
			;;
		-* | =) ;;
		*) printf '%s\n' "${COMP_WORDS[i]}" ;;
		esac
	done
}

# The first column of a table: the ids of grants, streams, peers or pools.
_kvxferctl_ids() {
	local engine
	mapfile -t engine < <(_kvxferctl_engine)
	"${COMP_WORDS[0]}" "$1" "${engine[@]}" 2>/dev/null | while read -r id _; do
		[[ $id =~ ^[0-9]+$ ]] && printf '%s\n' "$id"
	done
}

_kvxferctl_options() {
	local engine
	mapfile -t engine < <(_kvxferctl_engine)
	"${COMP_WORDS[0]}" options "${engine[@]}" 2>/dev/null | while read -r name state _; do
		[[ $state == live ]] && printf '%s=\n' "$name"
	done
}

# The commands of --help: lines with two blanks before them; the words after the first one's.
_kvxferctl_commands() {
	"${COMP_WORDS[0]}" --help 2>/dev/null | while IFS= read -r line; do
		[[ $line =~ ^\ \ ([a-z]+)(\ ([a-z]+)\ )? ]] || continue
		if [[ -z $1 ]]; then
			printf '%s\n' "${BASH_REMATCH[1]}"
		elif [[ $1 == "${BASH_REMATCH[1]}" && ${BASH_REMATCH[3]} ]]; then
			printf '%s\n' "${BASH_REMATCH[3]}"
		fi
	done | sort -u
}

# Options of the command, and of every one.
_kvxferctl_flags() {
	"${COMP_WORDS[0]}" "$@" --help 2>/dev/null | while read -r name _; do
		[[ $name == --* ]] && printf '%s\n' "$name"
	done | sed 's/=.*/=/'
}

# Sockets, and folders on the way to them.
_kvxferctl_sockets() {
	local file
	compgen -f -- "$1" | while IFS= read -r file; do
		[[ -d $file ]] && printf '%s/\n' "$file"
		[[ -S $file ]] && printf '%s\n' "$file"
	done
}

# Offers the lines that begin as the word does. Not by compgen -W, which would expand them: they
# come from engines and from folders.
_kvxferctl_fill() {
	local line
	while IFS= read -r line; do
		[[ -n $line && $line == "$2"* ]] && COMPREPLY+=("$line")
	done <<<"$1"
	[[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace 2>/dev/null
}

_kvxferctl_argument() {
	local current=$1 command=$2 second=$3
	case $command:$second in
	grants:pull | grants:revoke | grants:wait)
		_kvxferctl_fill "$(_kvxferctl_ids grants)" "$current"
		;;
	streams:ready | streams:wait | streams:cancel)
		_kvxferctl_fill "$(_kvxferctl_ids streams)" "$current"
		;;
	peers:forget) _kvxferctl_fill "$(_kvxferctl_ids peers)" "$current" ;;
	grants:open | streams:open | offers:open)
		_kvxferctl_fill "$(_kvxferctl_ids pools)" "$current"
		;;
	pools: | checksum:) _kvxferctl_fill "$(_kvxferctl_ids pools)" "$current" ;;
	options:*) _kvxferctl_fill "$(_kvxferctl_options)" "$current" ;;
	list:)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$current")
		;;
	grants: | streams: | peers: | offers:)
		local more=
		[[ $command != offers ]] && more=$(_kvxferctl_ids "$command")
		_kvxferctl_fill "$(_kvxferctl_commands "$command")"$'\n'"$more" "$current"
		;;
	esac
}

_kvxferctl() {
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} words
	COMPREPLY=()
	if [[ $current == = ]]; then
		current=
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	mapfile -t words < <(_kvxferctl_words)
	case $before in
	--socket | --from | --to)
		compopt -o filenames 2>/dev/null
		_kvxferctl_fill "$(_kvxferctl_sockets "$current")" "$current"
		return
		;;
	--secret)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$current")
		return
		;;
	esac
	if [[ $current == -* ]]; then
		_kvxferctl_fill "$(_kvxferctl_flags "${words[@]:0:2}")" "$current"
	elif ((${#words[@]} == 0)); then
		_kvxferctl_fill "$(_kvxferctl_commands)" "$current"
	elif ((${#words[@]} <= 2)) || [[ ${words[0]} == options ]]; then
		_kvxferctl_argument "$current" "${words[@]:0:2}"
	fi
}

complete -F _kvxferctl kvxferctl
