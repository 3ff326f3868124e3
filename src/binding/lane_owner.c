/* lane_owner.c - see lane_owner.h.
 *
 * A thread is one of Python's thread states. The owner is in the dict of it, as a capsule, which
 * goes when the state is cleared: by the thread itself at its end, in a forked child by the thread
 * that is left, and at the end of the interpreter.
 */
#include "lane_owner.h"

#if MC_FREE_THREADED

#define NAME "mmapcache.lanes"

static _Thread_local struct {
    const PyThreadState *state;  /* NULL: none yet */
    struct mc_lane_owner *owner; /* its own, alive as long as the state */
} current;

static void thread_ends(PyObject *capsule)
{
    struct mc_lane_owner *owner = PyCapsule_GetPointer(capsule, NAME);
    if (current.owner == owner) {
        current.state = NULL;
        current.owner = NULL;
    }
    mc_lane_owner_ends(owner);
}

struct mc_lane_owner *mc_lane_owner_known(void)
{
    PyThreadState *state = PyThreadState_Get();
    PyObject *dict, *capsule;
    if (current.state == state) {
        return current.owner;
    }
    dict = PyThreadState_GetDict();
    capsule = dict == NULL ? NULL : PyDict_GetItemString(dict, NAME); /* nobody else's dict */
    if (capsule == NULL) {
        return NULL;
    }
    current.state = state;
    current.owner = PyCapsule_GetPointer(capsule, NAME);
    return current.owner;
}

struct mc_lane_owner *mc_lane_owner_needed(void)
{
    struct mc_lane_owner *owner = mc_lane_owner_known();
    PyObject *dict, *capsule;
    if (owner != NULL) {
        return owner;
    }
    dict = PyThreadState_GetDict();
    owner = dict == NULL ? NULL : mc_lane_owner_new();
    capsule = owner == NULL ? NULL : PyCapsule_New(owner, NAME, thread_ends);
    if (capsule == NULL) {
        PyMem_Free(owner);
    } else {
        if (PyDict_SetItemString(dict, NAME, capsule) < 0) {
            owner = NULL; /* it goes with the capsule */
        }
        Py_DECREF(capsule);
    }
    PyErr_Clear();
    return capsule == NULL ? NULL : owner;
}

#else

typedef int nothing_here; /* a file of C has a declaration */

#endif
