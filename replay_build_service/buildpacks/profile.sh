# Debian's /etc/profile sets PATH anew, and repo2docker's entrypoint is a login shell: what the container was given comes
# back here, so that the environment, the base image's own folders and what a spawner sets are found in every shell.
_given=$(sed -nz 's/^PATH=//p' "/proc/$$/environ" 2>/dev/null | tr -d '\000')
PATH="${_given:-$PATH}"
unset _given
case ":$PATH:" in
*:/srv/venv/bin:*) ;;
*) PATH="/srv/venv/bin:$PATH" ;;
esac
export PATH
