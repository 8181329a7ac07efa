# shellcheck shell=bash
# MySQL, Redis and etcd: unpacked packages and how they are run.

# unpacked BIN: fills command with what runs an unpacked program by the loader and libraries it came with.
unpacked() {
    local lib
    lib=$(echo "$servers"/root/usr/lib/*-linux-gnu*)
    command=("$(echo "$lib"/ld-linux-*.so.?)" --library-path "$lib" --argv0 "$servers/root/usr/$1" "$servers/root/usr/$1")
}

mysqld() {
    local usr=$servers/root/usr
    unpacked sbin/mysqld
    command+=(--no-defaults --basedir="$usr" --lc-messages-dir="$usr/share/mysql" --character-sets-dir="$usr/share/mysql/charsets"
        --plugin-dir="$usr/lib/mysql/plugin" --innodb-redo-log-capacity=64M)
    [ "$(id -u)" != 0 ] || command+=(--user=root)
}

run_mysql() {
    local data=$state/data/$1 database=${1#mysql-} command
    if [ ! -d "$data" ]; then
        rm -rf "$data.new"
        cp -r "$servers/template" "$data.new"
        mv "$data.new" "$data"
    fi
    rm -f "$data"/mysql.sock*
    {
        echo "CREATE DATABASE IF NOT EXISTS $database;"
        echo "CREATE USER IF NOT EXISTS 'eprod'@'127.0.0.1' IDENTIFIED BY '$password';"
        echo "GRANT ALL ON $database.* TO 'eprod'@'127.0.0.1';"
        [ "$database" != shard0 ] || echo "CREATE USER IF NOT EXISTS 'eprod_test'@'127.0.0.1' IDENTIFIED BY '$password';" \
            "GRANT ALL ON \`eprod\\_test\\_%\`.* TO 'eprod_test'@'127.0.0.1';" | sed 's/; /;\n/'
    } >"$data.sql"
    mysqld
    # The socket's name is short whatever the folder is called: mysqld works inside its data folder.
    launch "$1" "${command[@]}" --datadir="$data" --port="$(port "$1")" --socket=mysql.sock --pid-file=mysql.pid --bind-address=127.0.0.1 \
        --mysqlx=OFF --secure-file-priv= --local-infile=1 --skip-name-resolve --innodb-flush-log-at-trx-commit=1 --sync-binlog=1 \
        --binlog-expire-logs-seconds=3600 --innodb-buffer-pool-size=128M --max-connections=400 --performance-schema=OFF --init-file="$data.sql"
}

run_redis() {
    local command
    unpacked bin/redis-server
    mkdir -p "$state/data/$1"
    launch "$1" "${command[@]}" --port "$(port "$1")" --bind 127.0.0.1 --dir "$state/data/$1" --save '' --appendonly no
}

run_etcd() {
    local command client peer
    unpacked bin/etcd
    client=http://127.0.0.1:$(port "$1") peer=http://127.0.0.1:$(($(port "$1") + 1))
    launch "$1" "${command[@]}" --name dev --data-dir "$state/data/$1" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "dev=$peer" --heartbeat-interval=50 --election-timeout=250
}

# mirror prints where this machine's apt fetches Debian from; nothing when it has no package lists.
# shellcheck disable=SC2016 # for apt
mirror() { apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p; }

# fetch_servers unpacks the newest MySQL, Redis and etcd of Debian's unstable suite. Nothing is installed: apt works
# under a configuration of its own, from the mirror that this machine uses anyway.
fetch_servers() {
    local at=$servers.new site command
    say "fetching MySQL, Redis and etcd (90 MB, once)"
    site=$(mirror)
    if [ -z "$site" ] && may_install; then
        apt-get -qq update || die "apt-get update fails"
        site=$(mirror)
    fi
    [ -n "$site" ] || die "apt has no package lists yet, so its mirror is not known; fetch them as root: apt-get update"
    rm -rf "$at"
    mkdir -p "$at"/apt/{lists,cache/archives}/partial "$at/root"
    : >"$at/apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site sid main" >"$at/apt/sources.list"
    cat >"$at/apt/apt.conf" <<C
Dir::State "$at/apt"; Dir::State::status "$at/apt/status"; Dir::State::lists "$at/apt/lists"; Dir::Cache "$at/apt/cache";
Dir::Etc::sourcelist "$at/apt/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User ""; APT::Install-Recommends "false"; APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none"; Acquire::Retries "3"; Acquire::http::Timeout "20";
C
    {
        APT_CONFIG=$at/apt/apt.conf timeout 120 apt-get -qq update &&
            APT_CONFIG=$at/apt/apt.conf timeout 300 apt-get -qq -y --download-only install mysql-server-core redis-server etcd-server
    } >"$at/apt.log" 2>&1 || { tail -n 25 "$at/apt.log" >&2; die "apt-get cannot fetch MySQL, Redis and etcd"; }
    find "$at/apt/cache/archives" -name '*.deb' | grep -Ev '/(perl|libperl|systemd|libsystemd-shared|passwd|debconf|libpam)[^/]*$' |
        xargs -P 4 -I{} dpkg -x {} "$at/root"
    rm -rf "$at/apt"
    servers=$at mysqld
    servers=$at "${command[@]}" --initialize-insecure --datadir="$at/template" >"$at/initialize.log" 2>&1 ||
        { tail -n 25 "$at/initialize.log" >&2; die "MySQL cannot make its first data folder"; }
    rm -f "$at/template/auto.cnf"
    mv "$at" "$servers"
}
