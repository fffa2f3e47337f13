/**
 * Ids of rows. Invariant: UUIDs of version 7 that rise within a process, so that rows of one moment share an index page
 * and a list by id is a list by time. uuid's own source of randomness is asked for 16 bytes at a time, which costs more
 * than the rest of a purchase's validation; here it is asked for 512 ids at once.
 */
import { randomFillSync } from 'node:crypto'
import { v7 } from 'uuid'

const pool = Buffer.allocUnsafe(16 * 512)
let next = pool.length
/** The millisecond of the last id, and its number within it: 31 random bits, then one more each. */
let msecs = 0
let seq = 0

export function newId(): string {
  if (next === pool.length) {
    randomFillSync(pool)
    next = 0
  }
  const random = pool.subarray(next, next + 16)
  next += 16
  const now = Date.now()
  if (now > msecs) {
    msecs = now
    seq = random.readUInt32BE() >>> 1
  } else {
    seq = (seq + 1) | 0
    // Full after 2^31 ids at least: the next millisecond's are taken.
    if (seq === 0) msecs++
  }
  return v7({ random, msecs, seq })
}
