# What the default guest's first process does once all is mounted: commands and a shell. Part of init.sh, or in
# the place of it where the root is another.

shell=$GASANG_SHELL size=$GASANG_SIZE
unset GASANG_SHELL GASANG_SIZE
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
[ ! -d /run/gasang/bin ] || export PATH=$PATH:/run/gasang/bin gasang=/run/gasang
cd /root || exit

# The agent behind vsock. "&" makes it ignore SIGINT; that its commands do not is its own care.
! command -v gasang-agent >/dev/null || gasang-agent </dev/null >/dev/null 2>&1 &

agent() {
    exec sh $gasang/agent.sh <>/dev/ttyS1 >&0 2>/dev/null
}

# A shell with job control needs a session that has the console as its controlling terminal.
console() {
    [ "$shell" != no ] || return
    [ -z "$size" ] || stty -F /dev/ttyS0 rows "${size%x*}" cols "${size#*x}"
    export PS1='gasang:\w\$ '
    setsid -c sh <>/dev/ttyS0 >&0 2>&1
    echo "shell $?" >/dev/ttyS1
    poweroff -f
}

# Joined by a pipe, which neither uses, because "&" would make the agent and all its children ignore SIGINT.
# The agent does not end; meanwhile this process adopts and reaps orphans.
agent | console
