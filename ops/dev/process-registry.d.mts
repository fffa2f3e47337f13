export function anyFreePort(): Promise<number>
/** "pid start-time" of a running process; undefined when there is none. */
export function identityOf(pid: number): string | undefined
