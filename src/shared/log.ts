/** Structured logs on stdout. Lines about a purchase carry purchase, resource and fencing token under these names. */
import { pino } from 'pino'

export type Log = pino.Logger

export function createLog(level: string, name: string): Log {
  return pino({
    level,
    base: { name, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { error: pino.stdSerializers.errWithCause },
  })
}
