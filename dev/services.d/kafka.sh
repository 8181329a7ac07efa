# shellcheck shell=bash
# Kafka: its jars and how a broker is run.

# classes names the archive of loaded classes that halves a broker's start; it belongs to one Java.
classes() { echo "$kafka/classes-$(stat -Lc %Y-%s "$(command -v java)").jsa"; }

fetch_kafka() {
    say "fetching Kafka (43 MB, once)"
    rm -rf "$kafka.new"
    timeout 400 mvn -q -B -f "$dev/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$kafka.new" >"$kafka.log" 2>&1 ||
        { tail -n 25 "$kafka.log" >&2; die "Maven cannot fetch Kafka"; }
    mv "$kafka.new" "$kafka"
}

run_kafka() {
    local name=$1 id=${1#kafka-} data command jars
    data=$state/data/kafka-$id-of-$brokers
    rm -f "$state/run/$name.jsa"
    jars=$(printf '%s:' "$kafka"/*.jar)
    kafka_settings "$id" >"$data.properties"
    if [ ! -e "$data/meta.properties" ]; then
        java -cp "$jars" kafka.tools.StorageTool format -t "$(cat "$state/data/cluster")" -c "$data.properties" >"$state/log/$name.log" 2>&1 ||
            fail "$name" "cannot format its data folder"
    fi
    command=(java -Xms256M -Xmx512M -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
    if [ -s "$(classes)" ]; then
        command+=(-XX:SharedArchiveFile="$(classes)")
    else
        command+=(-XX:ArchiveClassesAtExit="$state/run/$name.jsa")
    fi
    launch "$name" "${command[@]}" -cp "$jars" kafka.Kafka "$data.properties"
}

kafka_settings() {
    local client voters='' n copies=1 in_sync=1 topic
    client=$(port "kafka-$1")
    for ((n = 1; n <= brokers; n++)); do voters+=,$n@127.0.0.1:$(($(port "kafka-$n") + 1)); done
    [ "$brokers" = 1 ] || copies=3 in_sync=2
    cat <<P
process.roles=broker,controller
node.id=$1
log.dirs=$state/data/kafka-$1-of-$brokers
controller.quorum.voters=${voters#,}
listeners=PLAINTEXT://127.0.0.1:$client,CONTROLLER://127.0.0.1:$((client + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$client
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
default.replication.factor=$copies
min.insync.replicas=$in_sync
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=6000
P
    for topic in offsets.topic transaction.state.log share.coordinator.state.topic; do
        echo "$topic.replication.factor=$copies"
        echo "$topic.num.partitions=4"
        [ $topic = offsets.topic ] || echo "$topic.min.isr=$in_sync"
    done
}
