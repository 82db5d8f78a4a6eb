#!/bin/sh
# The guest's half of gasang.guest.agent. Four serial ports: the console is not ours; here, standard input and
# output are the second one (control), the third carries the standard streams of the command, the fourth its
# standard error and, inwards, what must happen while a command runs.
#
# A line that comes in is shell code; the host has quoted it into printable ASCII. Lines that go out:
#   ready                    once
#   started PID OUT ERR      the command's process and session, and the two processes that copy its output
#   want                     the next chunk of standard input, please: its length, a newline, its bytes
#   exit CODE                the command ended; both streams are complete, and end in the run's marker

pipes=${0%/*}
exec 3<>/dev/ttyS2 4<>/dev/ttyS3
stty raw -echo
stty raw -echo <&3
stty raw -echo <&4

obey() {
    while read -r line; do
        eval "$line"
    done
}

# Chunks from the host, until an empty one.
feed() {
    while echo want && read -r length <&3 && [ "$length" -gt 0 ]; do
        dd bs="$length" count=1 iflag=fullblock <&3 2>/dev/null >&5
    done
}

# launch SCRIPT: in place of this process's copy, the command; its number in the process table first.
launch() {
    read -r -n 10 pid rest </proc/self/stat
    echo "started $pid $out $err" >&6
    exec 6>&-
    eval "$1"
}

# run MARKER SCRIPT [input]
run() {
    cat <$pipes/stdout >&3 &
    out=$!
    cat <$pipes/stderr >&4 &
    err=$!
    if [ -z "$3" ]; then
        (launch "$2") </dev/null 6>&1 >$pipes/stdout 2>$pipes/stderr 3>&- 4>&-
        code=$?
    else
        feed 5>$pipes/stdin &
        feeder=$!
        exec 5<$pipes/stdin # ours too, so that what the command leaves unread does not kill the feeder
        (launch "$2") <&5 6>&1 >$pipes/stdout 2>$pipes/stderr 3>&- 4>&- 5<&-
        code=$?
    fi
    wait $out $err
    echo "$1" >&3
    echo "$1" >&4
    echo "exit $code"
    if [ -n "$3" ]; then
        cat <&5 >/dev/null
        exec 5<&-
        wait $feeder
    fi
}

obey <&4 >/dev/null &
echo ready
obey
