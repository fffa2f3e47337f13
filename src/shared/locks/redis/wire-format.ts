/**
 * Parses the answers of the scripts. An id is "<x | s | p and a limit> <ttl_ms> <channel>/<waiter_id>-<uuid> <owner>"
 * (prelude.lua).
 */
import type { LockState, Mode } from '../api.ts'

export function kindOf(mode: Mode, limit: number): string {
  return mode === 'permit' ? `p${limit}` : mode === 'shared' ? 's' : 'x'
}

export function readId(id: string): { owner: string; mode: Mode; limit?: number } {
  const [kind = '', _ttl_ms, _waiter, ...owner] = id.split(' ')
  const mode = kind.startsWith('p') ? 'permit' : kind === 's' ? 'shared' : 'exclusive'
  return { owner: owner.join(' '), mode, ...(mode === 'permit' && { limit: Number(kind.slice(1)) }) }
}

/** Splits the value of a lock key, "id token since_us". If the key belongs to other software, its value has another form. */
export function splitHolder(value: string): { id: string; token: number; since_us: number } {
  const [, id = value, token = 0, since_us = 0] = value.match(/^(.*) (\d+) (\d+)$/s) ?? []
  return { id, token: Number(token), since_us: Number(since_us) }
}

export function readHolder(value: string): Omit<LockState['holders'][number], 'ttl_left_ms'> {
  const { id, token, since_us } = splitHolder(value)
  return { ...readId(id), token, since_ms: Math.floor(since_us / 1000) }
}
