/* fault.h - deliberate faults, so that a test run can prove that the tests see them.
 *
 * A place that keeps a promise asks RING_FAULT_IS(n). In every ordinary build that is the constant
 * 0; built with -DRING_FAULT=n exactly that one fault is in, and a test must fail:
 * tests/ring/faults.py says which.
 */
#ifndef RING_MODULE_FAULT_H
#define RING_MODULE_FAULT_H

#ifdef RING_FAULT
#define RING_FAULT_IS(n) (RING_FAULT == (n))
#else
#define RING_FAULT_IS(n) 0
#endif

#endif
