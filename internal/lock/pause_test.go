package lock

// pausedChild names the back end that a child process of TestPauses uses.
const pausedChild = "EPROD_TEST_PAUSED"
