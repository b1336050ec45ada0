#!/bin/sh
# The sidecar that shows a person's DataHub spaces: it mounts them, links them where the person finds them, and watches.
#
# A mount whose provider has died makes whoever looks at it wait, for ever. So nothing here waits for it, the session sees it by
# links alone, and these go as soon as it does not answer. Then README.md says so.
#
# Usage: mount.sh COMMAND…   in which {mount} stands for the folder to mount at, {spaces} for --space-id … of each space.
# Reads, again and again, in DATAHUB_FILES:
#   token      what oneclient logs in with        README.md  what the person reads while all is well, or nothing is to be had
#   spaces     ids of the spaces, one a line      silent.md  … while the mount does not answer
#   links      FOLDER, tab, name in the mount
# DATAHUB_TREE: the folder of the links, which the session can only read; DATAHUB_MOUNT: where it is mounted.
# DATAHUB_LOOK, DATAHUB_PATIENCE, DATAHUB_ENDURE, in seconds: between two looks, for one look, of silence before it is mounted anew.

files=$DATAHUB_FILES tree=$DATAHUB_TREE mount=$DATAHUB_MOUNT
look=${DATAHUB_LOOK:-5} patience=${DATAHUB_PATIENCE:-5} endure=${DATAHUB_ENDURE:-30}
work=$(mktemp -d) || exit 1
child='' mounted='' linked='' shown='' well_at=0 looks=0 pause=$look
tab=$(printf '\t')

now() { date +%s; }

say() { echo "datahub: $*"; }

# A file of the person's, whole or not at all.
show() {
    this=$1$(md5sum <"$files/$1")
    [ "$shown" = "$this" ] && return
    {
        cat "$files/$1"
        [ "$1" = silent.md ] && printf '\nSince %s UTC.\n' "$(date -u '+%Y-%m-%d %H:%M')"
    } >"$tree/.README.md.new"
    mv -f "$tree/.README.md.new" "$tree/README.md" && shown=$this
}

unlink_all() {
    for one in "$tree"/* "$tree"/.[!.]*; do
        [ -L "$one" ] && rm -f -- "$one"
    done
    linked=''
}

link_all() {
    this=$(md5sum <"$files/links")
    [ "$linked" = "$this" ] && return
    unlink_all
    while IFS=$tab read -r folder name; do
        ln -s -- "$mount/$name" "$tree/$folder"
    done <"$files/links"
    linked=$this
}

runs() { [ -n "$child" ] && kill -0 "$child" 2>/dev/null; }

# With the program gone, whoever waits for its mount gets an error.
stop() {
    unlink_all
    [ -n "$child" ] && kill -9 "$child" 2>/dev/null && wait "$child" 2>/dev/null
    child='' mounted=''
    umount -l "$mount" 2>/dev/null
    return 0
}

start() {
    left=$#
    while [ "$left" -gt 0 ]; do
        word=$1 left=$((left - 1))
        shift
        case $word in
        '{mount}') set -- "$@" "$mount" ;;
        '{spaces}')
            while IFS= read -r id; do
                set -- "$@" --space-id "$id"
            done <"$files/spaces"
            ;;
        *) set -- "$@" "$word" ;;
        esac
    done
    # Of that program's environment alone: a word of its command could be read by others on the node.
    ONECLIENT_ACCESS_TOKEN=$(cat "$files/token") "$@" &
    child=$! well_at=$(now)
}

# Whether the mount shows something, within DATAHUB_PATIENCE. What looks may hang for good, so it is not waited for.
# oneclient remembers what folders hold, so it is also asked for a file that nobody has asked for: that there is none, only
# the provider can say.
answers() {
    looks=$((looks + 1))
    answer=$work/$looks
    IFS=$tab read -r _ space <"$files/links"
    (
        ls -A "$mount" 2>/dev/null | head -n 1 | grep -q . || exit
        # Only the reason, behind the last colon: a space may be called anything.
        LC_ALL=C ls -d "$mount/$space/.replay-$$-$looks" 2>&1 | sed 's/.*: //' | grep -qi -e 'input/output' -e 'endpoint' -e 'timed out' && exit
        : >"$answer"
    ) &
    tenths=$((patience * 10))
    while [ "$tenths" -gt 0 ]; do
        if [ -e "$answer" ]; then
            rm -f "$answer"
            return 0
        fi
        runs || return 1
        sleep 0.1
        tenths=$((tenths - 1))
    done
    return 1
}

one_look() {
    if ! [ -s "$files/token" ] || ! [ -s "$files/spaces" ]; then
        [ -n "$child" ] && stop
        show README.md
        return
    fi
    wanted=$(cat "$files/token" "$files/spaces" | md5sum)
    if [ -n "$child" ] && [ "$mounted" != "$wanted" ]; then
        say 'the token or the spaces have changed: mounting anew'
        stop
    fi
    if ! runs; then
        [ -n "$child" ] && say 'the program has ended'
        stop
        mkdir -p "$mount"
        start "$@"
        mounted=$wanted
    fi
    if answers; then
        [ -n "$linked" ] || say 'the spaces are there'
        well_at=$(now) pause=$look
        link_all
        show README.md
        return
    fi
    [ -n "$linked" ] && say 'the mount does not answer'
    unlink_all
    show silent.md
    if ! runs || [ $(($(now) - well_at)) -ge "$endure" ]; then
        stop
        pause=$((pause * 2 > 60 ? 60 : pause * 2))
    fi
}

trap 'stop; rm -rf "$work"; exit 0' TERM INT
unlink_all
while :; do
    one_look "$@"
    # In the background, so that a signal is heard at once.
    sleep "$pause" &
    wait $!
done
