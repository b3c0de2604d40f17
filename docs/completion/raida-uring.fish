# Completion of raida-uring for fish, for /usr/share/fish/vendor_completions.d.

# The program knows its commands, options and values. Where it has none to offer, a file is meant.
function __raida_uring_complete
    _RAIDA_URING_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \
        _TYPER_COMPLETE_ARGS=(commandline -cp) raida-uring 2>/dev/null
end

complete --command raida-uring --no-files --condition '__raida_uring_complete is-args' \
    --arguments '(__raida_uring_complete get-args)'
