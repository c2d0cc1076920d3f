/*
 * A stand-in for the Ascend driver's libdcmi.so: a host with 8 NPUs, one on each of cards 0-7 beside the card's
 * controller (MCU, chip 1), in two HCCS groups of four. Layouts and meanings are those of the driver's public
 * "DCMI API Reference".
 *
 * Compiled with
 *   -DNO_V1, -DNO_V2            it lacks dcmi_* or dcmiv2_*
 *   -DWIDE                      the structs of memory and ECC are longer than published
 *
 * The file beside it, named like it with ".ctl" at the end, is read at every call. One instruction a line, the
 * last that matches counts; <f> is a function's name without dcmi_ or dcmiv2_, or *:
 *   hang <f> <k>         the k-th call of it doesn't come back; says "hang" on stderr first
 *   crash <f> <k>        the k-th call of it writes to address 0
 *   exit <f> <k>         the k-th call of it ends the process with code 127
 *   fail <f> <code>      every call of it answers the code
 *   kind <type> <code>   the utilisation of this type answers the code
 *   none 1               no card is there
 *   lost <n> 1           NPU n is gone from its bus
 *   health <n> <level>
 *   errors <n> <count>   it has so many error codes, 0x80E01801 and down
 *   profiling 1          the cores' utilisation can't be told
 *   idle 1               nothing is busy
 *   multi0 1             the call for all utilisations answers zeros and success
 *   processes <n> <k>    k processes use NPU n
 *   ecc 0                ECC is off
 *   mcu 1                cards count their MCU among their chips
 *   topology <code>      between NPUs 0 and 1
 *   die 0, serial 0      these aren't told
 *   temperature <degrees>
 *   hbm 0                the chips have no on-chip memory
 *   event <n> <code> <assertion>   a fault event, once for each change of the line
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NPUS = 8, OK = 0, INVALID = -8001, INNER = -8005, NOT_EXIST = -8008, UNSUPPORTED = -8255 };

/* Control */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char control[4096];
static int started;
static struct { char name[64]; int count; } counts[64];

__attribute__((constructor)) static void find_control(void)
{
	Dl_info self;
	if (dladdr((void *)find_control, &self) != 0)
		snprintf(control, sizeof control, "%s.ctl", self.dli_fname);
}

/* instruction answers whether there is one with the key and, if given, the subject; the rest of it in rest. */
static int instruction(const char *key, const char *subject, char *rest, size_t size)
{
	char line[256], word[64], of[64];
	int found = 0;
	FILE *file = fopen(control, "r");
	if (file == NULL)
		return 0;
	while (fgets(line, sizeof line, file) != NULL) {
		int end = 0;
		if (sscanf(line, "%63s %n", word, &end) != 1 || strcmp(word, key) != 0)
			continue;
		if (subject != NULL) {
			int more = 0;
			if (sscanf(line + end, "%63s %n", of, &more) != 1 || (strcmp(of, subject) != 0 && strcmp(of, "*") != 0))
				continue;
			end += more;
		}
		snprintf(rest, size, "%s", line + end);
		found = 1;
	}
	fclose(file);
	return found;
}

static int setting(const char *key, int otherwise)
{
	char rest[256];
	return instruction(key, NULL, rest, sizeof rest) ? atoi(rest) : otherwise;
}

static int setting_of(const char *key, int npu, int otherwise)
{
	char rest[256], subject[16];
	snprintf(subject, sizeof subject, "%d", npu);
	return instruction(key, subject, rest, sizeof rest) ? atoi(rest) : otherwise;
}

/* called counts a call and does what is told for it; anything but OK is its answer. */
static int called(const char *name)
{
	char rest[256];
	int nth = 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 64; i++) {
		if (counts[i].name[0] == 0)
			snprintf(counts[i].name, sizeof counts[i].name, "%s", name);
		if (strcmp(counts[i].name, name) == 0) {
			nth = ++counts[i].count;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	if (instruction("hang", name, rest, sizeof rest) && atoi(rest) == nth) {
		dprintf(2, "hang\n");
		for (;;)
			pause();
	}
	if (instruction("crash", name, rest, sizeof rest) && atoi(rest) == nth)
		*(volatile int *)0 = 1;
	if (instruction("exit", name, rest, sizeof rest) && atoi(rest) == nth)
		_exit(127);
	if (instruction("fail", name, rest, sizeof rest))
		return atoi(rest);
	if (!started && strcmp(name, "init") != 0)
		return INNER;
	return OK;
}

static int asked(const char *name, int npu)
{
	int code = called(name);
	if (code != OK)
		return code;
	if (npu < 0 || npu >= NPUS)
		return INVALID;
	return setting_of("lost", npu, 0) ? NOT_EXIST : OK;
}

/* What the host is like */

struct chip_info { unsigned char type[32], name[32], version[32]; unsigned int cores; unsigned char npu_name[32]; };
struct pcie_info { unsigned int vendor, sub_vendor, device, sub_device; int domain; unsigned int bus, slot, function; unsigned char reserved[32]; };
struct elabel { char product[256], model[256], manufacturer[256], date[256], serial[256]; };
struct die { unsigned int words[5]; };
struct hbm {
	unsigned long long size; unsigned int frequency; unsigned long long used; int temperature; unsigned int bandwidth;
#ifdef WIDE
	unsigned int more[16];
#endif
};
struct memory { unsigned long long size, available; unsigned int frequency; unsigned long page, pages, pages_free; unsigned int use; unsigned char reserved[60]; };
struct multi { unsigned int cube, vector, core, npu, reserved[8]; };
struct ecc {
	int enabled; unsigned int single, twice, total_single, total_twice, isolated_single, isolated_twice;
#ifdef WIDE
	unsigned int more[16];
#endif
};
struct process { int pid; unsigned long memory; };
struct filter { unsigned long long flag; unsigned int id; unsigned char severity, node, reserved[32]; };
struct fault {
	unsigned int id; unsigned short device; unsigned char node, node_id, sub, sub_id, severity, assertion;
	int serial, notification; unsigned long long raised; char name[256], additional[32]; unsigned char reserved[32];
};
struct event { int type; struct fault fault; };
typedef void (*handler)(struct event *);

static int init_(void)
{
	int code = called("init");
	if (code == OK)
		started = 1;
	return code;
}

static int list(const char *name, int *count, int *ids, int length)
{
	int code = called(name);
	if (code != OK)
		return code;
	if (length < NPUS)
		return INVALID;
	*count = setting("none", 0) ? 0 : NPUS;
	for (int i = 0; i < *count; i++)
		ids[i] = i;
	return OK;
}

static int driver_version(char *out, unsigned int size)
{
	int code = called("get_driver_version");
	if (code == OK)
		snprintf(out, size, "24.1.rc2");
	return code;
}

static int chip(int npu, struct chip_info *out)
{
	memset(out, 0, sizeof *out);
	strcpy((char *)out->type, "Ascend");
	strcpy((char *)out->name, "910B3");
	strcpy((char *)out->version, "V1");
	out->cores = 20 + npu;
	return OK;
}

static int pcie(int npu, struct pcie_info *out)
{
	memset(out, 0, sizeof *out);
	out->vendor = 0x19e5;
	out->device = 0xd802;
	out->bus = 0xc1 - npu * 0x10;
	return OK;
}

static int label(int npu, struct elabel *out)
{
	memset(out, 0, sizeof *out);
	strcpy(out->serial, "NA");
	if (setting("serial", 1))
		snprintf(out->serial, sizeof out->serial, "2102313LNR%02d", npu);
	return OK;
}

static int die_of(int npu, int type, int known, struct die *out)
{
	memset(out, 0, sizeof *out);
	if (type != known)
		return UNSUPPORTED;
	if (setting("die", 1))
		for (unsigned int i = 0; i < 5; i++)
			out->words[i] = (0xA0u + npu) << 24 | i;
	return OK;
}

static int memory_hbm(int npu, struct hbm *out)
{
	memset(out, 0, sizeof *out);
	if (!setting("hbm", 1))
		return UNSUPPORTED;
	out->size = 65536;
	out->frequency = 1600;
	out->used = 3072 + 100 * npu;
	out->temperature = 60 + npu;
	out->bandwidth = 99;
	return OK;
}

static int utilisation(int npu, int type, unsigned int *out)
{
	char rest[256], subject[16];
	snprintf(subject, sizeof subject, "%d", type);
	if (instruction("kind", subject, rest, sizeof rest))
		return atoi(rest);
	int cores = !setting("profiling", 0) && !setting("idle", 0);
	switch (type) {
	case 2: *out = cores ? 10 + npu : 0; return OK;
	case 6: *out = 5; return OK;
	case 10: *out = 20 + npu; return OK;
	case 12: *out = cores ? 30 + npu : 0; return OK;
	case 13: *out = setting("idle", 0) ? 0 : 40 + npu; return OK;
	default: return UNSUPPORTED;
	}
}

static int utilisation_all(int npu, struct multi *out)
{
	memset(out, 0, sizeof *out);
	if (setting("multi0", 0) || setting("idle", 0))
		return OK;
	out->cube = 50 + npu;
	out->vector = 30 + npu;
	out->core = 10 + npu;
	out->npu = 40 + npu;
	if (setting("profiling", 0))
		out->cube = out->vector = out->core = out->npu = 0xEF;
	return OK;
}

static int frequency(int npu, int type, unsigned int *out)
{
	switch (type) {
	case 6: *out = 1600 + npu; return OK;
	case 7: *out = 1000 + npu; return OK;
	default: return UNSUPPORTED;
	}
}

static int ecc_of(int npu, int type, struct ecc *out)
{
	memset(out, 0, sizeof *out);
	if (type != (setting("hbm", 1) ? 2 : 0))
		return UNSUPPORTED;
	out->enabled = setting("ecc", 1);
	out->single = 1 + npu;
	out->twice = 11 + npu;
	out->total_single = 101 + npu;
	out->total_twice = 111 + npu;
	out->isolated_twice = 3 + npu;
	return OK;
}

static int codes(int npu, int *count, unsigned int *out, unsigned int length)
{
	*count = setting_of("errors", npu, 0);
	for (int i = 0; i < *count && i < (int)length; i++)
		out[i] = 0x80E01801u - i;
	return OK;
}

static int processes(int npu, struct process *out, int *count)
{
	*count = setting_of("processes", npu, 0);
	for (int i = 0; i < *count && i < 32; i++)
		out[i] = (struct process){ 4000 + 10 * npu + i, (unsigned long)(i + 1) << 30 };
	return OK;
}

static int affinity(int npu, char *out, int *length)
{
	*length = sprintf(out, "%d-%d", npu / 2 * 24, npu / 2 * 24 + 23);
	return OK;
}

static int topology(int a, int b, int *out)
{
	*out = a == b ? 0 : a / 4 == b / 4 ? 3 : a % 4 == b % 4 ? 4 : 1;
	if (a + b == 1)
		*out = setting("topology", *out);
	return OK;
}

/* Faults */

static handler on_fault;

static void *tell(void *unused)
{
	char last[256] = "", rest[256];
	(void)unused;
	for (;; usleep(2000)) {
		int device, assertion;
		struct event e = { 0 };
		if (!instruction("event", NULL, rest, sizeof rest) || strcmp(rest, last) == 0)
			continue;
		if (strchr(rest, '\n') == NULL || sscanf(rest, "%d %x %d", &device, &e.fault.id, &assertion) != 3)
			continue;
		strcpy(last, rest);
		e.fault.device = device;
		e.fault.assertion = assertion;
		e.fault.severity = 3;
		e.fault.raised = 1700000000000;
		strcpy(e.fault.name, "multi-bit ECC error");
		strcpy(e.fault.additional, "stack 1");
		on_fault(&e);
	}
	return NULL;
}

static int subscribe(struct filter filter, handler h)
{
	struct filter all = { 0 };
	pthread_t thread;
	int code = called("subscribe_fault_event");
	if (code != OK)
		return code;
	if (memcmp(&filter, &all, offsetof(struct filter, reserved) + sizeof filter.reserved) != 0 || h == NULL)
		return INVALID;
	if (on_fault != NULL)
		return INNER;
	on_fault = h;
	return pthread_create(&thread, NULL, tell, NULL) == 0 ? OK : INNER;
}

/* The two sets of names */

#define ON_CARD(name) \
	do { int code = asked(name, card); if (code != OK) return code; if (device != 0) return UNSUPPORTED; } while (0)
#define ON_DEVICE(name) \
	do { int code = asked(name, device); if (code != OK) return code; } while (0)

#ifndef NO_V1
int dcmi_init(void) { return init_(); }
int dcmi_get_card_list(int *count, int *ids, int length) { return list("get_card_list", count, ids, length); }
int dcmi_get_card_num_list(int *count, int *ids, int length) { return list("get_card_num_list", count, ids, length); }
int dcmi_get_driver_version(char *out, unsigned int size) { return driver_version(out, size); }
int dcmi_get_device_num_in_card(int card, int *out)
{
	int code = called("get_device_num_in_card");
	if (code == OK)
		*out = card >= 0 && card < NPUS ? 1 + (setting("mcu", 0) != 0) : 0;
	return code;
}
int dcmi_get_device_type(int card, int device, int *out)
{
	int code = asked("get_device_type", card);
	if (code == OK)
		*out = device;
	return code;
}
int dcmi_get_device_chip_info(int card, int device, void *out)
{
	struct chip_info info;
	ON_CARD("get_device_chip_info");
	chip(card, &info);
	memcpy(out, &info, sizeof info - sizeof info.npu_name);
	return OK;
}
int dcmi_get_device_chip_info_v2(int card, int device, struct chip_info *out) { ON_CARD("get_device_chip_info"); return chip(card, out); }
int dcmi_get_device_pcie_info_v2(int card, int device, struct pcie_info *out) { ON_CARD("get_device_pcie_info"); return pcie(card, out); }
int dcmi_get_card_elabel_v2(int card, struct elabel *out) { int device = 0; ON_CARD("get_card_elabel"); return label(card, out); }
int dcmi_get_device_die_v2(int card, int device, int type, struct die *out) { ON_CARD("get_device_die"); return die_of(card, type, 1, out); }
int dcmi_get_device_logic_id(int *out, int card, int device) { ON_CARD("get_device_logic_id"); *out = card; return OK; }
int dcmi_get_device_phyid_from_logicid(unsigned int device, unsigned int *out) { ON_DEVICE("get_device_phyid"); *out = 7 - device; return OK; }
int dcmi_get_device_health(int card, int device, unsigned int *out) { ON_CARD("get_device_health"); *out = setting_of("health", card, 0); return OK; }
int dcmi_get_device_errorcode_v2(int card, int device, int *count, unsigned int *out, unsigned int length) { ON_CARD("get_device_errorcode"); return codes(card, count, out, length); }
int dcmi_get_device_hbm_info(int card, int device, struct hbm *out) { ON_CARD("get_device_hbm_info"); return memory_hbm(card, out); }
int dcmi_get_device_memory_info_v3(int card, int device, struct memory *out)
{
	ON_CARD("get_device_memory_info");
	memset(out, 0, sizeof *out);
	if (!setting("hbm", 1)) {
		out->size = 21534;
		out->available = 20000 - card;
	}
	return OK;
}
int dcmi_get_device_multi_utilization_rate(int card, int device, struct multi *out) { ON_CARD("get_device_multi_utilization_rate"); return utilisation_all(card, out); }
int dcmi_get_device_utilization_rate(int card, int device, int type, unsigned int *out) { ON_CARD("get_device_utilization_rate"); return utilisation(card, type, out); }
int dcmi_get_device_frequency(int card, int device, int type, unsigned int *out) { ON_CARD("get_device_frequency"); return frequency(card, type, out); }
int dcmi_get_device_temperature(int card, int device, int *out) { ON_CARD("get_device_temperature"); *out = setting("temperature", 50 + card); return OK; }
int dcmi_get_device_power_info(int card, int device, int *out) { ON_CARD("get_device_power_info"); *out = 905 + 10 * card; return OK; }
int dcmi_get_device_ecc_info(int card, int device, int type, struct ecc *out) { ON_CARD("get_device_ecc_info"); return ecc_of(card, type, out); }
int dcmi_get_device_resource_info(int card, int device, struct process *out, int *count) { ON_CARD("get_processes"); return processes(card, out, count); }
int dcmi_get_affinity_cpu_info_by_device_id(int card, int device, char *out, int *length) { ON_CARD("get_affinity"); return affinity(card, out, length); }
int dcmi_get_topo_info_by_device_id(int card, int device, int card2, int device2, int *out) { ON_CARD("get_topo_info"); return device2 == 0 ? topology(card, card2, out) : UNSUPPORTED; }
int dcmi_subscribe_fault_event(int card, int device, struct filter filter, handler h) { return card == -1 && device == -1 ? subscribe(filter, h) : INVALID; }
#endif

#ifndef NO_V2
int dcmiv2_init(void) { return init_(); }
int dcmiv2_get_device_list(int *ids, int *count, int length) { return list("get_device_list", count, ids, length); }
int dcmiv2_get_driver_version(char *out, unsigned int size) { return driver_version(out, size); }
int dcmiv2_get_device_type(int device, int *out) { ON_DEVICE("get_device_type"); *out = 0; return OK; }
int dcmiv2_get_device_chip_info(int device, struct chip_info *out) { ON_DEVICE("get_device_chip_info"); return chip(device, out); }
int dcmiv2_get_device_pcie_info(int device, struct pcie_info *out) { ON_DEVICE("get_device_pcie_info"); return pcie(device, out); }
int dcmiv2_get_device_elabel_info(int device, struct elabel *out) { ON_DEVICE("get_card_elabel"); return label(device, out); }
int dcmiv2_get_device_die_id(int device, int type, struct die *out) { ON_DEVICE("get_device_die"); return die_of(device, type, 2, out); }
int dcmiv2_get_chip_phy_id_by_dev_id(int device, unsigned int *out) { ON_DEVICE("get_device_phyid"); *out = 7 - device; return OK; }
int dcmiv2_get_device_health(int device, unsigned int *out) { ON_DEVICE("get_device_health"); *out = setting_of("health", device, 0); return OK; }
int dcmiv2_get_device_error_code_list(int device, int *count, unsigned int *out, unsigned int length) { ON_DEVICE("get_device_errorcode"); return codes(device, count, out, length); }
int dcmiv2_get_device_hbm_info(int device, struct hbm *out) { ON_DEVICE("get_device_hbm_info"); return memory_hbm(device, out); }
int dcmiv2_get_device_multi_utilization_rate(int device, struct multi *out) { ON_DEVICE("get_device_multi_utilization_rate"); return utilisation_all(device, out); }
int dcmiv2_get_device_utilization_rate(int device, int type, unsigned int *out) { ON_DEVICE("get_device_utilization_rate"); return utilisation(device, type, out); }
int dcmiv2_get_device_frequency(int device, int type, unsigned int *out) { ON_DEVICE("get_device_frequency"); return frequency(device, type, out); }
int dcmiv2_get_device_temperature(int device, int *out) { ON_DEVICE("get_device_temperature"); *out = setting("temperature", 50 + device); return OK; }
int dcmiv2_get_device_power_info(int device, int *out) { ON_DEVICE("get_device_power_info"); *out = 905 + 10 * device; return OK; }
int dcmiv2_get_device_ecc_info(int device, int type, struct ecc *out) { ON_DEVICE("get_device_ecc_info"); return ecc_of(device, type, out); }
int dcmiv2_get_device_proc_mem_info(int device, struct process *out, int *count) { ON_DEVICE("get_processes"); return processes(device, out, count); }
int dcmiv2_get_affinity_cpu_info_by_dev_id(int device, char *out, int *length) { ON_DEVICE("get_affinity"); return affinity(device, out, length); }
int dcmiv2_get_topo_info_by_device_id(int device, int device2, int *out) { ON_DEVICE("get_topo_info"); return topology(device, device2, out); }
int dcmiv2_subscribe_fault_event(int device, struct filter filter, handler h) { return device == -1 ? subscribe(filter, h) : INVALID; }
#endif
