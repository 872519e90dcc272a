# Completion of the programs' options, from their own --help:
#
#   source cli/completion.bash          or `make install-programs`, which puts it where bash-completion looks
_prefix_ntk() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]} choices
    COMPREPLY=()
    case $word in
    -*)
        mapfile -t COMPREPLY < <(compgen -W "$("$program" --help 2> /dev/null | grep -o '^ *--[a-z0-9-]*=\?' | tr -d ' ')" -- "$word")
        [[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2> /dev/null
        return ;;
    =) word= ;;
    esac
    [ "$previous" != = ] || previous=${COMP_WORDS[COMP_CWORD - 2]}
    # Words of an option's description up to its "(default", where it is a list of choices: "exact, ntk, linear". The help
    # wraps long descriptions.
    choices=$("$program" --help 2> /dev/null |
        awk '/^ *--/ { if (text != "") print text; text = $0; next } /^     / { text = text " " $0; next } { if (text != "") print text; text = "" }
            END { print text }' |
        sed -n "s/^ *$previous=NAME  *\([a-z0-9, -]*\)(default.*/\1/p; s/^ *$previous=NAME  *\([a-z0-9, -]*\)\$/\1/p" | sed 's/ or / /g; s/,/ /g')
    if [ -n "$choices" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$word")
    else
        compopt -o default 2> /dev/null
    fi
}
complete -F _prefix_ntk ntk_convergence training_dynamics ntk_predict attend prefix_to_summary attention_error attention_cost \
    finetune embed lm
