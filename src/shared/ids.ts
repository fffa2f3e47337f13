/**
 * Ids of rows. Invariant: ids are UUIDs of version 7 that rise within a process, so that rows of one moment share an index page
 * and a list by id is a list by time. The uuid package reads 16 random bytes for each id, which costs more than the rest of
 * a purchase's validation; this file reads the bytes of 512 ids at once.
 */
import { randomFillSync } from 'node:crypto'
import { v7 } from 'uuid'

const pool = Buffer.allocUnsafe(16 * 512)
let next = pool.length
/**
 * The millisecond of the last id, and the counter within that millisecond: it starts with 31 random bits, then rises by one.
 */
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
    // The counter has overflowed, which takes at least 2^31 ids: continue in the next millisecond.
    if (seq === 0) msecs++
  }
  return v7({ random, msecs, seq })
}
