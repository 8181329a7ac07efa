# shellcheck shell=bash
# Processes: starting, waiting, ending. One is ours when its pid and its start time are those on record.

# process NAME: prints pid and state letter of a process of ours that has not ended. A zombie has, once it is the last of
# its threads: until then the others may still hold ports and files.
process() {
    local pid started stat
    [ -s "$state/run/$1" ] && read -r pid started <"$state/run/$1" || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    read -r -a stat <<<"${stat##*) }"
    [[ ${stat[19]} == "$started" && (${stat[0]} != [ZX] || ${stat[17]} -gt 1) ]] && echo "$pid ${stat[0]}"
}

alive() { process "$1" >/dev/null; }

signal() {
    local pid _
    if read -r pid _ < <(process "$1"); then kill -s "$2" "$pid" 2>/dev/null || true; fi
}

# gone NAME SECONDS: waits until the process has ended.
gone() {
    local end=$((SECONDS + $2))
    while alive "$1"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ask PORT TEXT: sends a request and prints what comes back within a second.
# shellcheck disable=SC2016 # for the shell that it starts
ask() { timeout 1 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "$1" >&3 && cat <&3' "$1" "$2" 2>/dev/null || true; }

answers() {
    local port
    port=$(port "$1")
    case $1 in
    mysql-*) grep -q 'ready for connections' "$state/log/$1.log" 2>/dev/null && open_port "$port" ;;
    redis) [[ $(ask "$port" 'PING\r\nQUIT\r\n') == *PONG* ]] ;;
    etcd) [[ $(ask "$port" 'GET /health HTTP/1.0\r\n\r\n') == *'"health":"true"'* ]] ;;
    *) open_port "$port" ;; # Kafka opens the client port last
    esac
}

# launch NAME COMMAND…: runs it in a session of its own, without the locks of this script, and records it.
launch() {
    local name=$1 stat
    shift
    setsid "$@" >"$state/log/$name.log" 2>&1 </dev/null 7>&- 8>&- 9>&- &
    stat=$(cat "/proc/$!/stat" 2>/dev/null) || fail "$name" "ended at once"
    read -r -a stat <<<"${stat##*) }"
    echo "$! ${stat[19]}" >"$state/run/$name"
}

# start NAME: returns when it answers. One that runs already is only waited for.
start() {
    local name=$1 end=$((SECONDS + ready_seconds)) p
    exec 8>"$state/run/.$name.lock"
    flock -w $((ready_seconds * 2)) 8 || fail "$name" "another dev/services has been at it for too long"
    if alive "$name"; then
        signal "$name" CONT
    else
        for p in $(ports "$name"); do
            if open_port "$p"; then die "$name: port $p is taken by another program; EPROD_SERVICES_PORT_OFFSET moves all ports"; fi
        done
        [ ! -e "$state/log/$name.log" ] || mv "$state/log/$name.log" "$state/log/$name.log.1"
        "run_${name%%-*}" "$name"
    fi
    until answers "$name"; do
        alive "$name" || fail "$name" "ended before it was ready"
        [ $SECONDS -lt $end ] || { signal "$name" KILL; fail "$name" "does not answer after $ready_seconds s"; }
        sleep 0.05
    done
    exec 8>&-
}

stop() {
    signal "$1" CONT
    signal "$1" TERM
    if gone "$1" 30; then
        [ ! -s "$state/run/$1.jsa" ] || mv "$state/run/$1.jsa" "$(classes)"
    else
        end "$1"
    fi
    rm -f "$state/run/$1"
}

# end NAME: kills it and returns when it is gone.
end() {
    signal "$1" KILL
    gone "$1" 10 || fail "$1" "cannot be ended"
}

ports() {
    port "$1"
    case $1 in etcd | kafka-*) echo $(($(port "$1") + 1)) ;; esac
}
