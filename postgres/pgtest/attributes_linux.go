package pgtest

import "syscall"

// processAttributes has a server run as somebody else, and stop when the test
// process is killed.
func processAttributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGINT}
}
