/* threads.h - what the binding does where Python has no lock (Py_GIL_DISABLED), in a few words.
 *
 *      section     one thread at a time is within a section of an object. As with the GIL, whoever
 *                  runs Python code or waits in there may find that another one was in between
 *      publish     what was stored before it is seen by whoever loads the word
 *      peek, poke  a word that tells nothing of others: a counter, a flag, a guess
 *      set once    of several threads that have a value for a place one wins, for good
 *      count       a number of references, or one that is given out
 *
 * In a build with the GIL each of them is the plain C that it stands for, so that nothing there
 * costs more, and no other file asks which build this is but by MC_FREE_THREADED.
 *
 * Whatever a reader needs again and again is either its thread's own (binding/lane.h) or published
 * and then neither changed nor freed while anybody may look (document_object.h). Sections are for
 * the rest: for first times, iterators, writers.
 */
#ifndef MMAPCACHE_THREADS_H
#define MMAPCACHE_THREADS_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>
#include <stdbool.h>

#include "os.h"

#ifdef Py_GIL_DISABLED

#define MC_FREE_THREADED 1

#define MC_SECTION_BEGIN(object) Py_BEGIN_CRITICAL_SECTION(object)
#define MC_SECTION_END() Py_END_CRITICAL_SECTION()

#define mc_load(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
#define mc_reveal(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
#define mc_peek(place) __atomic_load_n(place, __ATOMIC_RELAXED)
#define mc_poke(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
#define mc_count_up(place) ((void)__atomic_add_fetch(place, 1, __ATOMIC_RELAXED))
#define mc_count_down(place) (__atomic_sub_fetch(place, 1, __ATOMIC_ACQ_REL) == 0)
#define mc_count_next(place) __atomic_add_fetch(place, 1, __ATOMIC_RELAXED)

/* MC_LOCKED_METHOD(put, writer_of) makes a method of the function `put` that runs in a section of
 * the object that writer_of(self) is, by the name MC_LOCKED(put); likewise for other calls. */
#define MC_LOCKED(name) name##_locked
#define MC_LOCKED_CALL(result, name, object_of, parameters, arguments)                             \
    static result name##_locked parameters                                                         \
    {                                                                                              \
        result outcome;                                                                            \
        MC_SECTION_BEGIN(object_of(self));                                                         \
        outcome = name arguments;                                                                  \
        MC_SECTION_END();                                                                          \
        return outcome;                                                                            \
    }

/* Not for what runs Python code: whoever wants it meanwhile would wait for ever. Python stops its
 * other threads where they wait before one forks, and this lock is taken by a thread that runs: so
 * no child finds it taken. (PyMutex may be handed over to a thread that waits.) */
struct mc_mutex {
    int taken;
};

static inline bool mc_try_lock(struct mc_mutex *mutex)
{
    int none = 0;
    return __atomic_compare_exchange_n(&mutex->taken, &none, 1, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

static inline void mc_lock(struct mc_mutex *mutex)
{
    while (!mc_try_lock(mutex)) {
        Py_BEGIN_ALLOW_THREADS
        mc_yield();
        Py_END_ALLOW_THREADS
    }
}

static inline void mc_unlock(struct mc_mutex *mutex)
{
    __atomic_store_n(&mutex->taken, 0, __ATOMIC_RELEASE);
}

/* Takes over a reference; the one that the place has now, borrowed for as long as it has it. */
static inline PyObject *mc_set_once(PyObject **place, PyObject *value)
{
    PyObject *seen = NULL;
    if (value == NULL || __atomic_compare_exchange_n(place, &seen, value, false, __ATOMIC_ACQ_REL,
                                                     __ATOMIC_ACQUIRE)) {
        return value;
    }
    Py_DECREF(value);
    return seen;
}

/* A dict's value for a key: a new reference, or NULL, with an exception or without. */
static inline PyObject *mc_dict_get(PyObject *dict, PyObject *key)
{
    PyObject *value;
    (void)PyDict_GetItemRef(dict, key, &value);
    return value;
}

/* A list's member, which must be there in a build with the GIL: a new reference, or NULL with
 * IndexError, as another thread may change the list at any moment. */
static inline PyObject *mc_list_get(PyObject *list, Py_ssize_t index)
{
    return PyList_GetItemRef(list, index);
}

#else

#define MC_FREE_THREADED 0

#define MC_SECTION_BEGIN(object)                                                                   \
    {                                                                                              \
        (void)(object)
#define MC_SECTION_END() }

#define MC_LOCKED(name) name
#define MC_LOCKED_CALL(result, name, object_of, parameters, arguments)

#define mc_load(place) (*(place))
#define mc_reveal(place, value) ((void)(*(place) = (value)))
#define mc_peek(place) (*(place))
#define mc_poke(place, value) ((void)(*(place) = (value)))
#define mc_count_up(place) ((void)++*(place))
#define mc_count_down(place) (--*(place) == 0)
#define mc_count_next(place) (++*(place))

static inline PyObject *mc_set_once(PyObject **place, PyObject *value)
{
    Py_XSETREF(*place, value);
    return value;
}

static inline PyObject *mc_dict_get(PyObject *dict, PyObject *key)
{
    return Py_XNewRef(PyDict_GetItemWithError(dict, key));
}

static inline PyObject *mc_list_get(PyObject *list, Py_ssize_t index)
{
    return Py_NewRef(PyList_GET_ITEM(list, index));
}

#endif

#define MC_LOCKED_METHOD(name, object_of)                                                          \
    MC_LOCKED_CALL(PyObject *, name, object_of, (PyObject * self, PyObject * arg), (self, arg))
#define MC_LOCKED_FASTCALL(name, object_of)                                                        \
    MC_LOCKED_CALL(PyObject *, name, object_of,                                                    \
                   (PyObject * self, PyObject *const *args, Py_ssize_t nargs),                     \
                   (self, args, nargs))
#define MC_LOCKED_KEYWORDS(name, object_of)                                                        \
    MC_LOCKED_CALL(PyObject *, name, object_of,                                                    \
                   (PyObject * self, PyObject * args, PyObject * kwargs), (self, args, kwargs))
#define MC_LOCKED_GETTER(name, object_of)                                                          \
    MC_LOCKED_CALL(PyObject *, name, object_of, (PyObject * self, void *closure), (self, closure))
#define MC_LOCKED_SETTER(name, object_of)                                                          \
    MC_LOCKED_CALL(int, name, object_of, (PyObject * self, PyObject * value, void *closure),       \
                   (self, value, closure))

/* Adds to a counter that one thread alone changes, and others may read. */
#define mc_tick(place, number) mc_poke(place, *(place) + (number))

/* Dead objects are kept for the next ones of their type: only where a lock makes that cheap. */
#define MC_KEEPS_BLOCKS (!MC_FREE_THREADED)

#endif
