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
 * The table has no lock: the handler could not take one, and a child that is forked while another
 * thread holds one would wait for it for ever. A slot is claimed by one compare-and-swap of its
 * base, published by storing its base last, and withdrawn by clearing it first. Where a fork comes
 * between, the child's copy of the slot stays claimed, and nothing else is lost. There are as many
 * slots as are needed: chunks are appended and never go away.
 */
#define _GNU_SOURCE
#include "guard.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format.h"
#include "system.h"

#ifndef SI_TKILL /* Linux's way to say that it was raised */
#define SI_TKILL SI_USER
#endif

#define CHUNK 64u /* slots; the first of them are here without an allocation */
#define FREE UINT64_C(0)
#define CLAIMED UINT64_C(1) /* no mapping begins there */
#define DONE (-1)           /* no process has this id */

struct mc_guarded {
    uint64_t base; /* or FREE, or CLAIMED: being filled in */
    uint64_t size;
    int writable;
    int lost;
};

struct chunk {
    struct mc_guarded maps[CHUNK];
    struct chunk *next;
};

static struct chunk table;
static int installed; /* see mc_once_begin */
static struct sigaction previous;
static uint64_t page;     /* bytes of one of the system's, 4096 or more */
static int was_passed_on; /* the last SIGBUS was raised by this process, and ignored */

/* ---- things done once ---- */

bool mc_once_begin(int *by)
{
    int me = getpid(), seen = 0;
    while (!__atomic_compare_exchange_n(by, &seen, me, false, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
        if (seen == DONE) {
            return false;
        }
        if (seen == me) { /* another thread is at it */
            (void)sched_yield();
            seen = 0;
        } /* else a thread of the parent's, which this process does not have: it is ours to do */
    }
    return true;
}

void mc_once_end(int *by, bool done)
{
    __atomic_store_n(by, done ? DONE : 0, __ATOMIC_RELEASE);
}

/* ---- in the handler ---- */

/* Where the page begins that `address` is in. */
static void *page_of(uint64_t address)
{
    return (void *)(address & ~(page - 1)); /* NOLINT(performance-no-int-to-ptr) */
}

/* Replaces a page of the mapping by a private one of zeros. */
static void *private_page(const struct mc_guarded *map, uint64_t address)
{
    int protection = map->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    return mmap(page_of(address), page, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* Where in its page the horizon is, wherever the map begins: that is a multiple of any page. */
static size_t horizon_in_page(void)
{
    return (MC_CONTROL_OFFSET + offsetof(struct mc_control, horizon)) & (page - 1);
}

/* Makes every view of the mapping invalid. The page comes complete,
 * so nobody sees a control page with a horizon of 0. */
static int disown(struct mc_guarded *map)
{
    if (!mc_system_replace(page_of(map->base + MC_CONTROL_OFFSET), page, horizon_in_page(),
                           UINT64_MAX, map->writable)) {
        return 0;
    }
    __atomic_store_n(&map->lost, 1, __ATOMIC_RELEASE);
    return 1;
}

static uint64_t base_of(const struct mc_guarded *map)
{
    return __atomic_load_n(&map->base, __ATOMIC_ACQUIRE);
}

static struct chunk *next_of(const struct chunk *chunk)
{
    return __atomic_load_n(&chunk->next, __ATOMIC_ACQUIRE);
}

/* Whether the slot, whose base was seen to be `base`, has a byte of [start, end). */
static bool covers(const struct mc_guarded *map, uint64_t base, uint64_t start, uint64_t end)
{
    return base > CLAIMED && base < end &&
           start < base + __atomic_load_n(&map->size, __ATOMIC_RELAXED);
}

static int recover(uint64_t address)
{
    for (struct chunk *chunk = &table; chunk != NULL; chunk = next_of(chunk)) {
        for (unsigned i = 0; i < CHUNK; i++) {
            struct mc_guarded *map = &chunk->maps[i];
            uint64_t base = base_of(map);
            if (!covers(map, base, address, address + 1)) {
                continue;
            }
            if (!mc_guard_is_lost(map) && !disown(map)) {
                return 0;
            }
            return page_of(address) == page_of(base + MC_CONTROL_OFFSET) ||
                   private_page(map, address) != MAP_FAILED;
        }
    }
    return 0;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    /* Else it was sent, and there is no address: 0 and below on Linux, above 65536 on macOS. */
    bool fault = (unsigned)info->si_code - 1 < 0xFFFF;
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
    struct sigaction before;
    struct sigaction action = {.sa_sigaction = on_sigbus,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    if (!mc_once_begin(&installed)) {
        return;
    }
    page = (uint64_t)sysconf(_SC_PAGESIZE);
    mc_system_prepare(page, horizon_in_page(), UINT64_MAX);
    (void)sigaction(SIGBUS, NULL, &before);
    /* ours is there already: the parent's thread had come so far, and had noted what was before */
    if (!(before.sa_flags & SA_SIGINFO) || before.sa_sigaction != on_sigbus) {
        previous = before;
        (void)sigemptyset(&action.sa_mask);
        (void)sigaction(SIGBUS, &action, NULL);
    }
    mc_once_end(&installed, true);
}

#ifdef MC_TEST
void mc_guard_test_forget(void)
{
    mc_once_end(&installed, false);
}
#endif

/* ---- the table ---- */

/* The chunk behind this one, made if there is none; NULL: no memory. */
static struct chunk *next_or_new(struct chunk *chunk)
{
    struct chunk *next = next_of(chunk);
    if (next != NULL) {
        return next;
    }
    struct chunk *made = calloc(1, sizeof *made);
    if (made != NULL && !__atomic_compare_exchange_n(&chunk->next, &next, made, false,
                                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        free(made); /* another thread was faster */
        return next;
    }
    return made;
}

/* Claims a free slot; NULL: no memory. */
static struct mc_guarded *claim(void)
{
    for (struct chunk *chunk = &table; chunk != NULL; chunk = next_or_new(chunk)) {
        for (unsigned i = 0; i < CHUNK; i++) {
            uint64_t expected = FREE;
            if (__atomic_compare_exchange_n(&chunk->maps[i].base, &expected, CLAIMED, false,
                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
                return &chunk->maps[i];
            }
        }
    }
    return NULL;
}

/* Frees the slots of mappings that were where one has now been made: a parent's writers, whose
 * mappings this process did not inherit. */
static void forget(uint64_t start, uint64_t end)
{
    for (struct chunk *chunk = &table; chunk != NULL; chunk = next_of(chunk)) {
        for (unsigned i = 0; i < CHUNK; i++) {
            struct mc_guarded *map = &chunk->maps[i];
            uint64_t base = base_of(map);
            if (covers(map, base, start, end)) {
                (void)__atomic_compare_exchange_n(&map->base, &base, FREE, false, __ATOMIC_RELEASE,
                                                  __ATOMIC_RELAXED);
            }
        }
    }
}

struct mc_guarded *mc_guard_add(const void *base, uint64_t size, bool writable)
{
    uint64_t start = (uint64_t)(uintptr_t)base;
    install();
    forget(start, start + size);
    struct mc_guarded *map = claim();
    if (map != NULL) {
        __atomic_store_n(&map->size, size, __ATOMIC_RELAXED);
        map->writable = writable;
        __atomic_store_n(&map->lost, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&map->base, start, __ATOMIC_RELEASE);
    }
    return map;
}

void mc_guard_remove(struct mc_guarded *map)
{
    __atomic_store_n(&map->base, FREE, __ATOMIC_RELEASE);
}

void mc_guard_lose(struct mc_guarded *map)
{
    if (!mc_guard_is_lost(map)) {
        (void)disown(map); /* what failed is tried again with the next read */
    }
}

bool mc_guard_is_lost(const struct mc_guarded *map)
{
    return __atomic_load_n(&map->lost, __ATOMIC_ACQUIRE) != 0;
}
