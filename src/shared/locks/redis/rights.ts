/**
 * Checks what the user of the lock server may do. Invariant: a missing right is reported once, as soon as the client is
 * connected, and not only when a lock is in use; docs/locks.md lists all of them.
 */
import type { Cluster, Redis } from 'ioredis'
import type { LockEvents } from '../api.ts'
import { lockKey } from './lock-index.ts'
import { type Run, script } from './script.ts'

const RIGHTS = script('redis/rights')

export interface Rights {
  /** Checks once the client is connected. */
  check(): void
  /** Reports an error of the server if its cause is a missing right. */
  onError(error: unknown): void
  close(): void
}

export function createRights(
  redis: Redis | Cluster,
  run: Run,
  { prefix, channel, kind, events }: { prefix: string; channel: string; kind: 'quorum' | ''; events: LockEvents },
): Rights {
  const reported = new Set<string>()
  // This is not the key of any resource, so the check never touches the keys of a lock.
  const key = `${lockKey(prefix, 'rights')}:rights`

  function report(right: string): void {
    if (reported.has(right)) return
    reported.add(right)
    if (events.denied) events.denied(right)
    else process.emitWarning(`the user of the lock server lacks a right: ${right} (docs/locks.md, "Rights on Redis")`)
  }

  function onError(error: unknown): void {
    const text = error instanceof Error ? error.message : ''
    if (!text.startsWith('NOPERM')) return
    const [, command] = /'([^' ]+)/.exec(text) ?? []
    if (/channel/.test(text)) report(`+subscribe +publish on &${prefix}lock:wake:*`)
    else report(command ? `+${command}` : text)
  }

  function checkRights(): void {
    const names = (answer: unknown) => answer as string[]
    run(RIGHTS, names, [key], channel, redis.isCluster ? 'cluster' : kind).then((refused) => {
      for (const name of refused)
        report(name === 'publish' ? `+publish on &${prefix}lock:wake:*` : `+${name} on ~${prefix}lock:*`)
    }, onError)
  }

  return {
    check() {
      if (redis.status === 'ready') checkRights()
      else redis.once('ready', checkRights)
    },
    onError,
    close: () => void redis.off('ready', checkRights),
  }
}
