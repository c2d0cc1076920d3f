// Package rate limits how often accounts and users look services up, over all schedulers together.
//
//	every scheduler   admits a look-up at once, from memory (Take), and tells the owner of its account in batches (Run)
//	the owner         is found by hash among the schedulers that are connected; it counts what all of them admit
//	                  (Count), and grants each a part of what is left, to be used before it is asked again
//
// Decisions:
//   - At most so many are admitted in any minute: what was admitted is counted in slots of 3 s, and a slot counts until a
//     minute after its end. A token bucket that holds a minute's worth would let twice as many through in its first minute,
//     and a small one would refuse short bursts of a user who stays far below the limit.
//   - A look-up never waits for the network. What a scheduler is granted counts as used at once, so grants can't exceed a
//     limit; what it doesn't use within a second it gives back. Without a grant it admits few on its own account (a tenth
//     of the limit, for all that don't own it together, at least one each) and tells the owner at once: this is by how much
//     a limit may be exceeded. Who is refused meanwhile may be admitted a moment later.
//   - While not all members are connected, those that are have so much of each limit as they are of the members: the
//     equal share of each. A group counts together, and two groups can't admit more than the limit between them. A scheduler
//     that doesn't know these calls counts as one that isn't connected.
//   - The owner answers with all that it has counted. Its heir knows that of every account that it has served itself, and
//     is told by the others what they know; the larger counts. A change of the leader means nothing here.
//   - A user is remembered only when a look-up of his was admitted, so an account can't have more users in memory than
//     look-ups in a minute. There are at most 100,000 in all, and of an account no more than it leaves to the others. When
//     there is no room, who has not looked anything up for a minute is forgotten, and nobody else ever is: what an active
//     user has used can't be washed away by other users. Users who find no room then share 1,024 counters of their account,
//     by hash, each with the limit of one user: many at once are refused too early rather than never.
//   - Nothing of this is written down: after a restart of a scheduler, what it alone knew is forgotten.
//
// golang.org/x/time/rate is a token bucket of one process, without a way to take over what others have counted.
package rate
