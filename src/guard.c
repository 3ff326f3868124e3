/* guard.c - keeps a truncated file from killing the process that maps it.
 *
 * Whoever truncates a mapped file (an editor, `cp` over it, a full volume's clean-up script) makes
 * every access past its new end a SIGBUS. The handler here looks the address up among our mappings.
 * If it is ours,
 *
 *   1. the mapping's control page is replaced, in one step, by a private one: commit 0, horizon
 *      2^64 - 1;
 *   2. a private page of zeros is put under the fault, and the faulting load goes on.
 *
 * The read that was going on sees zeros, and its last step, the load of `horizon`, finds it
 * invalid; the next one finds a commit word that has moved, takes the slow path and asks
 * mc_guard_is_lost(). So being safe costs the read path nothing. Every other SIGBUS goes to the
 * handler that was there before, faulthandler's included.
 *
 * The table is read by the handler without a lock: a slot is published by storing its base last,
 * and withdrawn by clearing it first.
 */
#define _GNU_SOURCE
#include "guard.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format.h"

#define PAGE 4096u /* bytes: the control page is one, see format.h */

struct guarded {
    uint64_t base; /* 0: free */
    uint64_t size;
    int writable;
    int lost;
};

static struct guarded table[MC_GUARD_MAPS];
static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static struct sigaction previous;
static int was_passed_on; /* the last SIGBUS was raised by this process, and ignored */

/* Replaces a page of the mapping by a private one of zeros. */
static void *private_page(const struct guarded *map, uint64_t address)
{
    int protection = map->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    return mmap((void *)(address & ~(uint64_t)(PAGE - 1)), PAGE, protection,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Makes every view of the mapping invalid. The page is complete before it is moved into its place,
 * so nobody sees a control page with a horizon of 0. */
static int disown(struct guarded *map)
{
    int protection = map->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    struct mc_control *control =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (control == MAP_FAILED) {
        return 0;
    }
    shm_store(&control->horizon, UINT64_MAX);
    if (mprotect(control, PAGE, protection) != 0 ||
        mremap(control, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
               (void *)(map->base + MC_CONTROL_OFFSET)) == MAP_FAILED) {
        (void)munmap(control, PAGE);
        return 0;
    }
    __atomic_store_n(&map->lost, 1, __ATOMIC_RELEASE);
    return 1;
}

static int recover(uint64_t address)
{
    for (unsigned i = 0; i < MC_GUARD_MAPS; i++) {
        struct guarded *map = &table[i];
        uint64_t base = __atomic_load_n(&map->base, __ATOMIC_ACQUIRE);
        if (base != 0 && address >= base && address < base + map->size) {
            if (!__atomic_load_n(&map->lost, __ATOMIC_ACQUIRE) && !disown(map)) {
                return 0;
            }
            return address / PAGE == (base + MC_CONTROL_OFFSET) / PAGE ||
                   private_page(map, address) != MAP_FAILED;
        }
    }
    return 0;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    bool fault = info->si_code > 0; /* else it was sent, and there is no address */
    if (fault && recover((uint64_t)(uintptr_t)info->si_addr)) {
        return;
    }
    bool passed_on = __atomic_exchange_n(&was_passed_on, 0, __ATOMIC_RELAXED);
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (info->si_code == SI_TKILL && info->si_pid == getpid() && !passed_on) {
        /* A handler installed after ours, such as faulthandler's, has put ours back and raised the
         * signal for it. The fault itself comes again as soon as that handler returns. */
        __atomic_store_n(&was_passed_on, 1, __ATOMIC_RELAXED);
    } else {
        (void)sigaction(number, &previous, NULL);
        if (!fault) { /* a fault comes again as soon as this returns */
            (void)raise(number);
        }
    }
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_sigbus,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, &previous);
}

int mc_guard_add(const void *base, uint64_t size, bool writable)
{
    int found = -1;
    (void)pthread_once(&install_once, install);
    (void)pthread_mutex_lock(&table_mutex);
    uint64_t start = (uint64_t)(uintptr_t)base;
    for (unsigned i = 0; i < MC_GUARD_MAPS; i++) {
        if (table[i].base < start + size && start < table[i].base + table[i].size) {
            mc_guard_remove(
                (int)i); /* a parent's writer, whose mapping this process did not inherit */
        }
        if (found < 0 && table[i].base == 0) {
            table[i].size = size;
            table[i].writable = writable;
            table[i].lost = 0;
            __atomic_store_n(&table[i].base, start, __ATOMIC_RELEASE);
            found = (int)i;
        }
    }
    (void)pthread_mutex_unlock(&table_mutex);
    return found;
}

void mc_guard_remove(int slot)
{
    if (slot >= 0) {
        __atomic_store_n(&table[slot].base, 0, __ATOMIC_RELEASE);
    }
}

void mc_guard_lose(int slot)
{
    if (slot >= 0 && !mc_guard_is_lost(slot)) {
        (void)disown(&table[slot]); /* what failed is tried again with the next read */
    }
}

bool mc_guard_is_lost(int slot)
{
    return slot >= 0 && __atomic_load_n(&table[slot].lost, __ATOMIC_ACQUIRE) != 0;
}
