/* What an exit of KVM costs without anybody's virtual machine monitor: a guest writes an I/O port for ever, and each
 * write is an exit that is answered by entering again. Prints nanoseconds for each of EXITS exits. */

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

static int check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static void *map(size_t size, int fd)
{
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (at == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return at;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void enter(int vcpu, const struct kvm_run *run)
{
	check(ioctl(vcpu, KVM_RUN, NULL), "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_IO) {
		fprintf(stderr, "KVM left for reason %u\n", run->exit_reason);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static const unsigned char code[] = {0xe6, 0x80, 0xeb, 0xfc}; /* 1: out 0x80, al; jmp 1b */
	long exits = argc > 1 ? atol(argv[1]) : 20000;
	int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	void *memory = map(0x10000, -1);
	struct kvm_userspace_memory_region region = {
		.memory_size = 0x10000,
		.userspace_addr = (unsigned long)memory,
	};

	check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL), "KVM_SET_TSS_ADDR");
	check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
	memcpy((char *)memory + 0x1000, code, sizeof code);
	int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	struct kvm_run *run = map(check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"), vcpu);

	struct kvm_sregs system;
	struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
	check(ioctl(vcpu, KVM_GET_SREGS, &system), "KVM_GET_SREGS");
	system.cs.base = 0;
	system.cs.selector = 0;
	check(ioctl(vcpu, KVM_SET_SREGS, &system), "KVM_SET_SREGS");
	check(ioctl(vcpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");

	enter(vcpu, run);
	double start = now();
	for (long number = 0; number < exits; number++)
		enter(vcpu, run);
	printf("%.1f\n", (now() - start) / exits);
	return 0;
}
