// Package histories checks that a repository of users is linearizable: that
// whatever many callers do to it at once, their answers are those of a
// repository that does one thing at a time, each somewhere between the call and
// its return. A cache over a repository must pass as the repository does; a
// stale answer is one that no order of the calls explains.
//
// [Record] lets workers call the repository at random, on few users, accounts
// and names, so that they meet. [History.Check] looks for an order, with
// porcupine (Athalye, 2017, after Wing and Gong, 1993, and Lowe, 2017). [Chaos]
// stands beneath a cache, stretches calls at random, and makes writes fail that
// have been applied, or are applied later.
package histories
