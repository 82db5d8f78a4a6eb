// A client of /dev/kvm: virtual machines of a page or a few, in every mode of the processor, each to an exit
// that it waits for. Prints a line for each, "ok NAME" or what came instead, and ends with the number of
// those that failed. An argument is how many threads do all of it at the same time, each on a processor of
// its own.

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	MEMORY = 1 << 20,
	CODE = 0x1000,
	GDT = 0x2000,
	IDT = 0x3000,
	TABLES = 0x4000,	// PML4, PDPT, page directory
	HANDLER = 0x8000,
	STACK = 0x9000,
	MMIO = 0x200000,	// memory ends before
};

struct vm {
	int kvm, vm, vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

static int demand(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);
	if (result < 0)
		err(100, "%s", name);
	return result;
}
#define DEMAND(fd, request, argument) demand(fd, request, (void *)(uintptr_t)(argument), #request)

static struct vm create(const void *code, size_t size)
{
	struct vm vm;
	vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm.kvm < 0)
		err(100, "/dev/kvm");
	vm.vm = DEMAND(vm.kvm, KVM_CREATE_VM, 0);
	// Without EPT or unrestricted guests KVM runs real mode and page tables of its own: they need a place.
	DEMAND(vm.vm, KVM_SET_TSS_ADDR, 0xfffbd000u);
	uint64_t map = 0xfffbc000u;
	DEMAND(vm.vm, KVM_SET_IDENTITY_MAP_ADDR, &map);
	vm.memory = mmap(0, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm.memory == MAP_FAILED)
		err(100, "memory");
	memcpy(vm.memory + CODE, code, size);
	struct kvm_userspace_memory_region region = {
		.memory_size = MEMORY, .userspace_addr = (uintptr_t)vm.memory,
	};
	DEMAND(vm.vm, KVM_SET_USER_MEMORY_REGION, &region);
	vm.vcpu = DEMAND(vm.vm, KVM_CREATE_VCPU, 0);
	vm.run_size = DEMAND(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm.run = mmap(0, vm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm.vcpu, 0);
	if (vm.run == MAP_FAILED)
		err(100, "kvm_run");
	return vm;
}

static void destroy(struct vm *vm)
{
	munmap(vm->run, vm->run_size);
	munmap(vm->memory, MEMORY);
	close(vm->vcpu);
	close(vm->vm);
	close(vm->kvm);
}

static void start_at(struct vm *vm, uint64_t rax)
{
	struct kvm_regs registers = { .rip = CODE, .rsp = STACK, .rax = rax, .rbx = 2, .rflags = 2 };
	DEMAND(vm->vcpu, KVM_SET_REGS, &registers);
}

static void real_mode(struct vm *vm)
{
	struct kvm_sregs s;
	DEMAND(vm->vcpu, KVM_GET_SREGS, &s);
	s.cs.base = s.cs.selector = 0;
	DEMAND(vm->vcpu, KVM_SET_SREGS, &s);
	start_at(vm, 2);
}

static struct kvm_segment segment(int selector, int type, int l, int db)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1, .l = l, .db = db,
	};
}

static void put(struct vm *vm, uint64_t address, uint64_t value)
{
	memcpy(vm->memory + address, &value, 8);
}

// Flat segments; with `wide`, long mode with its first 4 MiB mapped to themselves by large pages.
static void protected_mode(struct vm *vm, int wide)
{
	put(vm, GDT + 8, wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
	put(vm, GDT + 16, 0x00cf93000000ffff);
	struct kvm_sregs s;
	DEMAND(vm->vcpu, KVM_GET_SREGS, &s);
	s.cs = segment(8, 11, wide, !wide);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(16, 3, 0, 1);
	s.gdt.base = GDT;
	s.gdt.limit = 23;
	s.idt.base = IDT;
	s.idt.limit = 0xfff;
	s.cr0 |= 1;
	if (wide) {
		put(vm, TABLES, (TABLES + 0x1000) | 3);
		put(vm, TABLES + 0x1000, (TABLES + 0x2000) | 3);
		put(vm, TABLES + 0x2000, 0x83);
		put(vm, TABLES + 0x2008, MMIO | 0x83);
		s.cr3 = TABLES;
		s.cr4 |= 0x20;
		s.cr0 |= 0x80000000;
		s.efer |= 0x500;
	}
	DEMAND(vm->vcpu, KVM_SET_SREGS, &s);
	start_at(vm, 2);
}

// An interrupt gate of long mode.
static void gate(struct vm *vm, int vector, uint32_t handler)
{
	put(vm, IDT + 16 * vector, (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (uint64_t)(handler >> 16) << 48);
}

static int run(struct vm *vm)
{
	DEMAND(vm->vcpu, KVM_RUN, 0);
	return vm->run->exit_reason;
}

static int failed(struct vm *vm, const char *name, const char *wanted)
{
	struct kvm_regs registers;
	DEMAND(vm->vcpu, KVM_GET_REGS, &registers);
	printf("%s: not %s, but exit %d (%#x %#llx) at %#llx, rax %#llx\n", name, wanted, vm->run->exit_reason,
	       vm->run->internal.suberror, vm->run->fail_entry.hardware_entry_failure_reason, registers.rip,
	       registers.rax);
	return 1;
}

static int is_output(struct vm *vm, int port, int value)
{
	return vm->run->exit_reason == KVM_EXIT_IO && vm->run->io.direction == KVM_EXIT_IO_OUT &&
	       vm->run->io.port == port && ((uint8_t *)vm->run)[vm->run->io.data_offset] == value;
}

// The sum of 2 and 2 as a digit, then a line's end, then HLT: KVM's own introduction.
static int test_real_mode(struct vm *vm, const char *name)
{
	real_mode(vm);
	if (run(vm), !is_output(vm, 0x3f8, '4'))
		return failed(vm, name, "a digit");
	if (run(vm), !is_output(vm, 0x3f8, '\n'))
		return failed(vm, name, "a line's end");
	return run(vm) == KVM_EXIT_HLT ? 0 : failed(vm, name, "HLT");
}

static int test_protected_mode(struct vm *vm, const char *name)
{
	protected_mode(vm, 0);
	if (run(vm) != KVM_EXIT_HLT)
		return failed(vm, name, "HLT");
	return *(uint32_t *)(vm->memory + 0x6000) == 0x12345678 ? 0 : failed(vm, name, "what was written");
}

static int test_mmio(struct vm *vm, const char *name)
{
	protected_mode(vm, 1);
	struct kvm_run *r = vm->run;
	if (run(vm) != KVM_EXIT_MMIO || !r->mmio.is_write || r->mmio.phys_addr != MMIO + 0x10 || r->mmio.len != 4 ||
	    *(uint32_t *)r->mmio.data != 2)
		return failed(vm, name, "a write");
	if (run(vm) != KVM_EXIT_MMIO || r->mmio.is_write || r->mmio.phys_addr != MMIO + 0x20 || r->mmio.len != 4)
		return failed(vm, name, "a read");
	memcpy(r->mmio.data, &(uint32_t){ 0xabcd }, 4);
	if (run(vm) != KVM_EXIT_HLT)
		return failed(vm, name, "HLT");
	struct kvm_regs registers;
	DEMAND(vm->vcpu, KVM_GET_REGS, &registers);
	return registers.rax == 0xabcd ? 0 : failed(vm, name, "what was read");
}

// Waits with its interrupts enabled; the handler writes to a port, then goes back to a HLT.
static int test_interrupt(struct vm *vm, const char *name)
{
	static const uint8_t handler[] = { 0xb0, 'i', 0xe6, 0x70, 0x48, 0xcf };	// mov al,'i'; out 70h,al; iretq
	protected_mode(vm, 1);
	memcpy(vm->memory + HANDLER, handler, sizeof handler);
	gate(vm, 0x40, HANDLER);
	if (run(vm) != KVM_EXIT_HLT || !vm->run->if_flag)
		return failed(vm, name, "HLT");
	struct kvm_interrupt interrupt = { .irq = 0x40 };
	DEMAND(vm->vcpu, KVM_INTERRUPT, &interrupt);
	if (run(vm), !is_output(vm, 0x70, 'i'))
		return failed(vm, name, "the handler");
	return run(vm) == KVM_EXIT_HLT ? 0 : failed(vm, name, "HLT after it");
}

static int test_cpuid(struct vm *vm, const char *name)
{
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entry; } cpuid = {
		.head.nent = 1,
		.entry = { .function = 0, .eax = 7, .ebx = 0x11111111, .ecx = 0x22222222, .edx = 0x33333333 },
	};
	DEMAND(vm->vcpu, KVM_SET_CPUID2, &cpuid);
	protected_mode(vm, 0);
	if (run(vm) != KVM_EXIT_HLT)
		return failed(vm, name, "HLT");
	struct kvm_regs registers;
	DEMAND(vm->vcpu, KVM_GET_REGS, &registers);
	return registers.rax == 7 && registers.rbx == 0x11111111 && registers.rcx == 0x22222222 &&
		registers.rdx == 0x33333333 ? 0 : failed(vm, name, "what we said");
}

static int test_triple_fault(struct vm *vm, const char *name)
{
	protected_mode(vm, 1);
	return run(vm) == KVM_EXIT_SHUTDOWN ? 0 : failed(vm, name, "shutdown");
}

// A loop of 20 million turns, longer than a tick of the host's clock: its interrupts take it out and back.
static int test_long_loop(struct vm *vm, const char *name)
{
	protected_mode(vm, 1);
	if (run(vm) != KVM_EXIT_HLT)
		return failed(vm, name, "HLT");
	struct kvm_regs registers;
	DEMAND(vm->vcpu, KVM_GET_REGS, &registers);
	return registers.rcx == 0 && registers.rdx == 20000000 ? 0 : failed(vm, name, "20000000 turns");
}

#define CODE_OF(...) (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ })

static const struct {
	const char *name;
	int (*test)(struct vm *, const char *);
	const uint8_t *code;
	size_t size;
} tests[] = {
	// mov dx,3f8h; add al,bl; add al,'0'; out dx,al; mov al,'\n'; out dx,al; hlt
	{ "real mode", test_real_mode, CODE_OF(0xba, 0xf8, 3, 0, 0xd8, 4, '0', 0xee, 0xb0, '\n', 0xee, 0xf4) },
	// mov dword [6000h],12345678h; hlt
	{ "protected mode", test_protected_mode, CODE_OF(0xc7, 5, 0, 0x60, 0, 0, 0x78, 0x56, 0x34, 0x12, 0xf4) },
	// mov [MMIO+10h],ebx; mov eax,[MMIO+20h]; hlt
	{ "MMIO in long mode", test_mmio,
	  CODE_OF(0x89, 0x1c, 0x25, 0x10, 0, 0x20, 0, 0x8b, 4, 0x25, 0x20, 0, 0x20, 0, 0xf4) },
	// sti; hlt; hlt
	{ "interrupt in long mode", test_interrupt, CODE_OF(0xfb, 0xf4, 0xf4) },
	// xor eax,eax; cpuid; hlt
	{ "CPUID", test_cpuid, CODE_OF(0x31, 0xc0, 0x0f, 0xa2, 0xf4) },
	// ud2, whose gate is not there
	{ "triple fault", test_triple_fault, CODE_OF(0x0f, 0x0b) },
	// mov ecx,20000000; xor edx,edx; again: inc edx; dec ecx; jnz again; hlt
	{ "long loop", test_long_loop,
	  CODE_OF(0xb9, 0, 0x2d, 0x31, 1, 0x31, 0xd2, 0xff, 0xc2, 0xff, 0xc9, 0x75, 0xfa, 0xf4) },
};

static void *run_all(void *processor)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET((intptr_t)processor, &one);
	if (sched_setaffinity(0, sizeof one, &one))
		err(100, "processor %d", (int)(intptr_t)processor);
	intptr_t failures = 0;
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		struct vm vm = create(tests[i].code, tests[i].size);
		if (tests[i].test(&vm, tests[i].name))
			failures++;
		else
			printf("ok %s\n", tests[i].name);
		destroy(&vm);
	}
	return (void *)failures;
}

int main(int count, char **words)
{
	int threads = count > 1 ? atoi(words[1]) : 1;
	pthread_t thread[64];
	if (threads < 1 || threads > 64)
		errx(100, "1 to 64 threads");
	for (intptr_t i = 0; i < threads; i++)
		if (pthread_create(&thread[i], 0, run_all, (void *)i))
			errx(100, "a thread");
	intptr_t failures = 0;
	for (int i = 0; i < threads; i++) {
		void *result;
		pthread_join(thread[i], &result);
		failures += (intptr_t)result;
	}
	return failures;
}
