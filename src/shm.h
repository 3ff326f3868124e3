/* shm.h - the funnel: the only loads and stores on the map, each named by its memory order.
 *
 *                 the loader                           any process
 *   content       shm_store, shm_write, shm_copy       shm_load, shm_read, shm_equal, shm_expose
 *   commit        shm_store_release  ------------->    shm_load_acquire
 *   horizon       shm_store, shm_fence_release  -->    shm_fence_acquire, shm_load
 *
 * An arrow: whoever sees the new word on the right has all that was stored before it on the left
 * (commit), and whoever sees content stored after the fence sees the horizon stored before it.
 *
 * The map is an array of shm_byte, a type of its own, so that the compiler refuses to hand a map
 * address to code that expects private bytes. Single words are atomic, and relaxed where the table
 * names no order. Longer content is copied and compared with memcpy and memcmp; as the loader may
 * overwrite it meanwhile, that is a data race by the letter of C11. So under ThreadSanitizer
 * (MC_TSAN) it goes byte by byte through atomics; and the validation that follows (store.h) decides
 * whether a copy counts.
 *
 * Under MC_TEST every access calls mc_shm_hook first: crash tests count the stores of a commit and
 * take the image between any two of them, reader tests stop a reader before each of its loads.
 */
#ifndef MMAPCACHE_SHM_H
#define MMAPCACHE_SHM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct shm_byte {
    uint8_t private_;
} shm_byte;

#ifdef MC_TEST
enum shm_access { SHM_STORE, SHM_LOAD };
/* Called before each access; address and length in bytes. NULL: nobody watches. Tests only. */
extern _Thread_local void (*mc_shm_hook)(enum shm_access access, const void *address, size_t len);
#define SHM_WATCH(access, address, len)                                                            \
    do {                                                                                           \
        if (mc_shm_hook != NULL) {                                                                 \
            mc_shm_hook(access, address, len);                                                     \
        }                                                                                          \
    } while (0)
#else
#define SHM_WATCH(access, address, len) ((void)0)
#endif

/* ThreadSanitizer does not model stand-alone fences: there,
 * every access carries the order itself. */
#ifdef MC_TSAN
#define SHM_LOAD_ORDER memory_order_acquire
#define SHM_STORE_ORDER memory_order_release
#else
#define SHM_LOAD_ORDER memory_order_relaxed
#define SHM_STORE_ORDER memory_order_relaxed
#endif

/* ---- any process ---- */

/* One aligned word, relaxed. */
static inline uint64_t shm_load(const void *address)
{
    SHM_WATCH(SHM_LOAD, address, 8);
    return atomic_load_explicit((const _Atomic uint64_t *)address, SHM_LOAD_ORDER);
}

/* Half a word, for who waits for it to change and looks properly then: no test watches. */
static inline uint32_t shm_load_half(const void *address)
{
    return atomic_load_explicit((const _Atomic uint32_t *)address, SHM_LOAD_ORDER);
}

/* One aligned word; everything stored before the release store that wrote it
 * is visible after it. */
static inline uint64_t shm_load_acquire(const void *address)
{
    SHM_WATCH(SHM_LOAD, address, 8);
    return atomic_load_explicit((const _Atomic uint64_t *)address, memory_order_acquire);
}

/* Loads before the fence are not moved behind loads and stores after it. */
static inline void shm_fence_acquire(void)
{
#ifndef MC_TSAN
    atomic_thread_fence(memory_order_acquire);
#endif
}

/* Copies bytes of the map into private memory. */
static inline void shm_read(void *to, const shm_byte *from, size_t len)
{
#if defined(MC_TSAN)
    for (size_t i = 0; i < len; i++) {
        ((uint8_t *)to)[i] =
            atomic_load_explicit((const _Atomic uint8_t *)(const void *)(from + i), SHM_LOAD_ORDER);
    }
#else
    SHM_WATCH(SHM_LOAD, from, len);
    memcpy(to, from, len);
#endif
}

/* True when bytes of the map equal private ones. */
static inline bool shm_equal(const shm_byte *map, const void *bytes, size_t len)
{
#if defined(MC_TSAN)
    for (size_t i = 0; i < len; i++) {
        if (atomic_load_explicit((const _Atomic uint8_t *)(const void *)(map + i),
                                 SHM_LOAD_ORDER) != ((const uint8_t *)bytes)[i]) {
            return false;
        }
    }
    return true;
#else
    SHM_WATCH(SHM_LOAD, map, len);
    return memcmp(map, bytes, len) == 0;
#endif
}

/* Prefetches a cache line; any address is harmless. */
static inline void shm_prefetch(const shm_byte *address)
{
    __builtin_prefetch(address, 0, 3);
}

/* Bytes of the map for a walker that reads in place and believes nothing: it must be right for
 * bytes that change under it, and the caller validates the view afterwards. */
static inline const uint8_t *shm_expose(const shm_byte *map)
{
    SHM_WATCH(SHM_LOAD, map, 1);
    return &map->private_;
}

/* ---- the loader ---- */

/* The same for a cache line that will be stored to. */
static inline void shm_prefetch_store(const shm_byte *address)
{
    __builtin_prefetch(address, 1, 3);
}

/* One aligned word into memory that no reader may trust yet. */
static inline void shm_store(void *address, uint64_t value)
{
    SHM_WATCH(SHM_STORE, address, 8);
    atomic_store_explicit((_Atomic uint64_t *)address, value, SHM_STORE_ORDER);
}

/* One aligned word that publishes everything stored before it. */
static inline void shm_store_release(void *address, uint64_t value)
{
    SHM_WATCH(SHM_STORE, address, 8);
    atomic_store_explicit((_Atomic uint64_t *)address, value, memory_order_release);
}

/* Stores after the fence are not moved before loads and stores before it. */
static inline void shm_fence_release(void)
{
#ifndef MC_TSAN
    atomic_thread_fence(memory_order_release);
#endif
}

/* Private bytes into memory that no reader may trust yet. */
static inline void shm_write(shm_byte *to, const void *from, size_t len)
{
#if defined(MC_TSAN)
    for (size_t i = 0; i < len; i++) {
        atomic_store_explicit((_Atomic uint8_t *)(void *)(to + i), ((const uint8_t *)from)[i],
                              SHM_STORE_ORDER);
    }
#elif defined(MC_TEST)
    for (size_t done = 0; done < len; done += 8) { /* every prefix that a kill can leave behind */
        size_t step = len - done < 8 ? len - done : 8;
        SHM_WATCH(SHM_STORE, to + done, step);
        memcpy(to + done, (const uint8_t *)from + done, step);
    }
#else
    memcpy(to, from, len);
#endif
}

/* Bytes of the map, which the loader alone writes, to another place of the map. */
static inline void shm_copy(shm_byte *to, const shm_byte *from, size_t len)
{
    shm_write(to, from, len);
}

#endif
