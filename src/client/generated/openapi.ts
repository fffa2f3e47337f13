/** Written by `npm run openapi` from openapi.json; not by hand. */

export interface paths {
    "/livez": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Is the process alive: event loop and progress */
        get: operations["livez"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/readyz": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Is the process ready: Postgres, Redis, breaker states */
        get: operations["readyz"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/metrics": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Prometheus metrics of this process */
        get: operations["metrics"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** A resource with its available, held and sold units */
        get: operations["getResource"];
        /**
         * Create or replace a resource
         * @description Creating needs no If-Match. Replacing needs the ETag of the version that is replaced.
         */
        put: operations["putResource"];
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Resources by reference */
        get: operations["listResources"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/restock": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Add units (or take unsold ones out), through the ledger */
        post: operations["restockResource"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/movements": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** The ledger of a resource, newest first */
        get: operations["listMovements"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Purchases, newest first */
        get: operations["listPurchases"];
        put?: never;
        /**
         * Buy: a place in the line
         * @description Answers 202 at once; with `Prefer: wait=N` when the purchase is settled, N seconds at most.
         */
        post: operations["createPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** A purchase, whatever its status */
        get: operations["getPurchase"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/confirm": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Make a held purchase final
         * @description With `payment` a hold is paid now: by card it is confirmed when the charge is reserved, from a wallet in the same settlement. A card that is declined (402) leaves the hold as it was, for another one; a purchase whose payment is being asked for, or set aside in a wallet, takes no other (409 `payment_in_progress`, `payment_conflict`). Without `payment` it is paid with what it came with, which may be nothing. Stands in the line of the purchase. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["confirmPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Give a queued or held purchase up
         * @description Takes no body. Stands in the line of the purchase. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["cancelPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/purchases/{id}/refund": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Take a confirmed purchase back; payment.refunds tells when its money has moved
         * @description All of it; takes no body. Stands in the line of the purchase. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["refundPurchase"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Bookings, newest first */
        get: operations["listBookings"];
        put?: never;
        /**
         * Book a stay or request a ride: a place in the line
         * @description A stay is booked from a time to another; with `hold_seconds` it is set aside until it is accepted, by card until the card has answered. A ride takes its driver from now until it ends; a request that nobody accepts expires. Answers 202 at once; with `Prefer: wait=N` when it is settled, N seconds at most.
         */
        post: operations["createBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** A booking, whatever its status */
        get: operations["getBooking"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/accept": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Accept a requested ride, or confirm a stay that is set aside
         * @description With `payment` a stay that is set aside is paid now, as a purchase is at its confirm. A stay that is over is not accepted any more (409 `too_late`). Stands in the line of the booking. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["acceptBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/decline": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Decline a request
         * @description Takes no body. Stands in the line of the booking. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["declineBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Give a booking up that is not over
         * @description An accepted stay that is over cannot be cancelled (409 `too_late`). Takes no body. Stands in the line of the booking. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["cancelBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/bookings/{id}/complete": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * End an accepted ride or stay
         * @description A stay from its beginning on (409 `too_early` before it), a ride at any time. Takes no body. Stands in the line of the booking. Answers when settled, 10 seconds at most or what `Prefer: wait=N` says; 202 when it takes longer.
         */
        post: operations["completeBooking"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/resources/{type}/{id}/availability": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * The free ranges of a calendar
         * @description A window of 366 days at most. Bookings that are requested or accepted take their time. What has passed is not free; a range that has begun is told whole, for a stay may have begun too.
         */
        get: operations["getAvailability"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/events": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Every change of purchases, bookings and stock, as it happens
         * @description Server-sent events (`text/event-stream`), without end unless `limit` says so. `id` goes into Last-Event-ID to resume without a gap, which an EventSource does by itself. `data` is `{id, change, type, resource, sequence, timestamp, data}`, the same as a webhook gets; `sequence` counts the events of a resource, without gaps. A purchase of several resources is an event of each of them; all of these have the same `change`.
         */
        get: operations["streamEvents"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** All endpoints, the newest last */
        get: operations["listWebhookEndpoints"];
        put?: never;
        /**
         * Tell this URL of what changes from now on
         * @description Signed as Standard Webhooks has it, in order of each resource’s numbers, at least once.
         */
        post: operations["createWebhookEndpoint"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** An endpoint, and how far behind it is */
        get: operations["getWebhookEndpoint"];
        put?: never;
        post?: never;
        /** Tell it of nothing more, and forget it */
        delete: operations["deleteWebhookEndpoint"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/rotate": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** A new secret; the old one signs too for a while */
        post: operations["rotateWebhookSecret"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/enable": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Go on where it was disabled, at once */
        post: operations["enableWebhookEndpoint"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/deliveries": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** What was tried, newest first */
        get: operations["listWebhookDeliveries"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/webhook-endpoints/{id}/replay": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Tell again, from this event of a resource on
         * @description In order, and all that came after it, of the types that the endpoint wants.
         */
        post: operations["replayWebhooks"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/leases": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Take a lock, or stand in line for it
         * @description The lease ends by itself `ttl_ms` after its last heartbeat (PUT). Whoever writes under it sends the fencing token along, so that the database can refuse a holder that was late. Hanging up ends the wait.
         */
        post: operations["acquireLease"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/leases/{lease_id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        /**
         * Heartbeat: the lease lives for another ttl_ms from now on
         * @description A third of the TTL apart, so that one that fails can be repeated.
         */
        put: operations["renewLease"];
        post?: never;
        /** Let go; whoever is next in line has the lock */
        delete: operations["releaseLease"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * What is locked, by resource: who holds it and who waits
         * @description What is held for less than 500 ms may be left out; the route of one lock leaves out nothing.
         */
        get: operations["listLocks"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks/stats": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * The whole fleet's locks in figures
         * @description Summed over all API and worker processes, which tell of theirs once a second. Quantiles come from buckets whose ends grow by the factor 2^(1/4): a value is never too low and at most 19 % too high.
         */
        get: operations["getLockStats"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/locks/{resource}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Who holds it, and who waits, in order
         * @description Nobody need hold it: then both lists are empty.
         */
        get: operations["getLock"];
        put?: never;
        post?: never;
        /**
         * Take a lock away from whoever has it (admins)
         * @description The holders are told at once, whoever waits is next, and no write with their tokens is accepted any more. When nobody has it, the fencing token is raised all the same. Kept in the table forced_releases.
         */
        delete: operations["takeLockAway"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/dashboard": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * What the dashboard shows: stock, lines, locks, pace, breakers, verdict
         * @description As JSON, at most a second old. With `Accept: text/event-stream` a stream: first the event `samples`, the paces of the last minutes, then about once a second the event `snapshot`, with this JSON. A client that is too slow gets fewer of them.
         */
        get: operations["getDashboard"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export interface components {
    schemas: {
        Problem: {
            type: string;
            title: string;
            status: number;
            detail: string;
            instance: string;
            /** @description Stable and machine-readable. */
            code: string;
            /** @description The same request may succeed later. */
            retryable: boolean;
            errors?: {
                field: string;
                detail: string;
            }[];
            /** @description Seconds; also in the Retry-After header. */
            retry_after?: number;
        } & {
            [key: string]: unknown;
        };
        Resource: {
            /** @description `type:id` */
            resource: string;
            type: string;
            id: string;
            name: string;
            /** @enum {unknown} */
            kind: "units" | "calendar";
            total: number;
            available: number;
            held: number;
            sold: number;
            price: {
                amount: number;
                currency: string;
            };
            /** @description null: no limit */
            max_per_customer: number | null;
            /** @description Also the ETag */
            version: number;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            updated_at: string;
        };
        Purchase: {
            /** Format: uuid */
            id: string;
            /** @description Place in the line: first come, first served */
            seq: number;
            /** @enum {unknown} */
            status: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded";
            /** @description Why, when rejected, failed or cancelled */
            reason: string | null;
            customer: string;
            lines: {
                resource: string;
                units: number;
            }[];
            /** @description Minor units; null until it is settled */
            amount: number | null;
            currency: string | null;
            payment: {
                method: string;
                account?: string;
                charge?: {
                    /** @enum {unknown} */
                    status: "pending" | "authorized" | "captured" | "declined" | "unavailable" | "released" | "lost";
                    /** @description Minor units */
                    amount: number;
                    currency: string;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
                refunds?: {
                    /** Format: uuid */
                    id: string;
                    /** @enum {unknown} */
                    status: "pending" | "succeeded" | "failed" | "canceled";
                    /** @description Minor units */
                    amount: number;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                    /** @description Made at the provider, and not by a command */
                    at_provider: boolean;
                    /** @description How often it was asked for; a failed one of ours is asked for again */
                    attempts: number;
                    /** Format: date-time */
                    created_at: string;
                }[];
                dispute?: {
                    /** @enum {unknown} */
                    status: "open" | "won" | "lost";
                    /** @description Minor units */
                    amount: number;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
            };
            hold_seconds: number | null;
            /** Format: date-time */
            expires_at: string | null;
            /**
             * Format: uuid
             * @description The expired purchase whose late payment bought this one
             */
            replaces: string | null;
            /**
             * Format: uuid
             * @description The purchase that its late payment bought
             */
            replaced_by: string | null;
            /** @description Fencing token of the lease it was settled under */
            fencing_token: number | null;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            settled_at: string | null;
        };
        Booking: {
            /** Format: uuid */
            id: string;
            /** @description Place in the line: first come, first served */
            seq: number;
            /** @enum {unknown} */
            kind: "stay" | "ride";
            /** @enum {unknown} */
            status: "queued" | "requested" | "accepted" | "completed" | "rejected" | "declined" | "cancelled" | "expired";
            /** @description Why, when rejected or cancelled */
            reason: string | null;
            /** @description What was in the way, when rejected for it */
            conflicting_ids: string[] | null;
            resource: string;
            customer: string;
            /** Format: date-time */
            from: string;
            /**
             * Format: date-time
             * @description Not included; null while a ride has no end
             */
            to: string | null;
            pickup: {
                lat: number;
                lng: number;
            } | null;
            /** @description Price × started days by the local clock, in minor units; null until it is settled */
            amount: number | null;
            currency: string | null;
            payment: {
                method: string;
                account?: string;
                charge?: {
                    /** @enum {unknown} */
                    status: "pending" | "authorized" | "captured" | "declined" | "unavailable" | "released" | "lost";
                    /** @description Minor units */
                    amount: number;
                    currency: string;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
                refunds?: {
                    /** Format: uuid */
                    id: string;
                    /** @enum {unknown} */
                    status: "pending" | "succeeded" | "failed" | "canceled";
                    /** @description Minor units */
                    amount: number;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                    /** @description Made at the provider, and not by a command */
                    at_provider: boolean;
                    /** @description How often it was asked for; a failed one of ours is asked for again */
                    attempts: number;
                    /** Format: date-time */
                    created_at: string;
                }[];
                dispute?: {
                    /** @enum {unknown} */
                    status: "open" | "won" | "lost";
                    /** @description Minor units */
                    amount: number;
                    /** @description In the provider’s word: `insufficient_funds`, `balance_insufficient` … */
                    reason: string | null;
                } | null;
            };
            hold_seconds: number | null;
            /** Format: date-time */
            expires_at: string | null;
            /**
             * Format: uuid
             * @description The expired booking whose late payment bought this one
             */
            replaces: string | null;
            /**
             * Format: uuid
             * @description The booking that its late payment bought
             */
            replaced_by: string | null;
            /** @description Fencing token of the lease it was settled under */
            fencing_token: number | null;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            settled_at: string | null;
        };
        WebhookEndpoint: {
            /** Format: uuid */
            id: string;
            url: string;
            events: string[] | null;
            resource: string | null;
            /** @description Why nothing is sent any more; null: it is */
            disabled: string | null;
            /**
             * Format: date-time
             * @description Until then the old secret signs too
             */
            old_secret_until: string | null;
            /** @description Events that it is still to be told of */
            behind: number;
            /**
             * Format: date-time
             * @description Of the event that fails for longest
             */
            failing_since: string | null;
            /** Format: date-time */
            created_at: string;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export interface operations {
    livez: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Alive */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @enum {unknown} */
                        status: "ok" | "stuck";
                        detail?: string;
                        event_loop_p99_ms: number;
                    };
                };
            };
        };
    };
    readyz: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Ready */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @enum {unknown} */
                        status: "ready" | "not_ready" | "stopping";
                        checks: {
                            [key: string]: {
                                /** @enum {unknown} */
                                status: "up" | "down";
                                detail?: string;
                            };
                        };
                        breakers: {
                            [key: string]: "closed" | "half_open" | "open";
                        };
                    };
                };
            };
        };
    };
    metrics: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Prometheus text format */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/plain": string;
                };
            };
        };
    };
    getResource: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The resource */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    putResource: {
        parameters: {
            query?: never;
            header?: {
                "if-match"?: string;
            };
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** Format: plain-text */
                    name: string;
                    /** @enum {string} */
                    kind: "units";
                    total: number;
                    price: {
                        /** @description In the minor unit: 99900 is 999.00 */
                        amount: number;
                        /** @description ISO 4217, one that has a minor unit. It stays once the ledger has an entry */
                        currency: string;
                    };
                    /** @description Units that one customer may have, held ones included */
                    max_per_customer?: number;
                } | {
                    /** Format: plain-text */
                    name: string;
                    /** @enum {string} */
                    kind: "calendar";
                    price?: {
                        /** @description In the minor unit: 99900 is 999.00 */
                        amount: number;
                        /** @description ISO 4217, one that has a minor unit. It stays once the ledger has an entry */
                        currency: string;
                    };
                };
            };
        };
        responses: {
            /** @description Replaced */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
            /** @description Created */
            201: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    /** @description Where it is from now on */
                    location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    listResources: {
        parameters: {
            query?: {
                type?: string;
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Resource"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    restockResource: {
        parameters: {
            query?: never;
            header?: {
                "idempotency-key"?: string;
            };
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    delta: number;
                    /** Format: plain-text */
                    reason: string;
                };
            };
        };
        responses: {
            /** @description The resource with its new stock */
            200: {
                headers: {
                    /** @description The version, for If-Match */
                    etag?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Resource"];
                };
            };
        };
    };
    listMovements: {
        parameters: {
            query?: {
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            id: number;
                            resource: string;
                            purchase: string | null;
                            booking: string | null;
                            delta: number;
                            reason: string;
                            fencing_token: number | null;
                            /** Format: date-time */
                            created_at: string;
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    listPurchases: {
        parameters: {
            query?: {
                /** @description Compared in Unicode NFC; no control or invisible characters, no white space outside */
                customer?: string;
                /** @description `type:id` */
                resource?: string;
                status?: "queued" | "held" | "confirmed" | "rejected" | "failed" | "cancelled" | "expired" | "refunded";
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Purchase"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    createPurchase: {
        parameters: {
            query?: never;
            header?: {
                /** @description wait=N: answer when settled, at most N seconds (N ≤ 30) */
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no white space outside
                     */
                    customer: string;
                    lines: {
                        /** @description `type:id` */
                        resource: string;
                        units: number;
                    }[];
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                    hold_seconds?: number;
                };
            };
        };
        responses: {
            /** @description Settled: confirmed or held */
            201: {
                headers: {
                    /** @description Where it is from now on */
                    location?: string;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Where it is from now on */
                    location?: string;
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    getPurchase: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The purchase */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    confirmPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": {
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                };
            };
        };
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    cancelPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    refundPurchase: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Purchase"];
                };
            };
        };
    };
    listBookings: {
        parameters: {
            query?: {
                /** @description `type:id` */
                resource?: string;
                /** @description Compared in Unicode NFC; no control or invisible characters, no white space outside */
                customer?: string;
                status?: "queued" | "requested" | "accepted" | "completed" | "rejected" | "declined" | "cancelled" | "expired";
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["Booking"][];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    createBooking: {
        parameters: {
            query?: never;
            header?: {
                /** @description wait=N: answer when settled, at most N seconds (N ≤ 30) */
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description `type:id` */
                    resource: string;
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no white space outside
                     */
                    customer: string;
                    /** @description ISO 8601 with an offset, or a date alone: then its midnight in UTC */
                    from: string;
                    /** @description ISO 8601 with an offset, or a date alone: then its midnight in UTC */
                    to: string;
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                    /** @description Only set aside, until it is accepted */
                    hold_seconds?: number;
                } | {
                    driver_id: string | number;
                    /**
                     * Format: identifier
                     * @description Compared in Unicode NFC; no control or invisible characters, no white space outside
                     */
                    rider_id: string | number;
                    pickup_lat: number;
                    pickup_lng: number;
                };
            };
        };
        responses: {
            /** @description Settled: accepted or requested */
            201: {
                headers: {
                    /** @description Where it is from now on */
                    location?: string;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Where it is from now on */
                    location?: string;
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    getBooking: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The booking */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    acceptBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": {
                    payment?: {
                        /** @enum {string} */
                        method: "none";
                    } | {
                        /** @enum {string} */
                        method: "card";
                        token: string;
                    } | {
                        /** @enum {string} */
                        method: "wallet";
                        account: string;
                    };
                };
            };
        };
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    declineBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    cancelBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    completeBooking: {
        parameters: {
            query?: never;
            header?: {
                prefer?: string;
                /** @description The same key and body give the same row, once */
                "idempotency-key"?: string;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Done */
            200: {
                headers: {
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
            /** @description In the line */
            202: {
                headers: {
                    /** @description Seconds after which asking again makes sense */
                    "retry-after"?: number;
                    /** @description The wait that was taken into account */
                    "preference-applied"?: string;
                    /** @description true: an earlier request with this key did it */
                    "idempotent-replayed"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Booking"];
                };
            };
        };
    };
    getAvailability: {
        parameters: {
            query: {
                /** @description ISO 8601 with an offset, or a date alone: then its midnight in UTC */
                from: string;
                /** @description ISO 8601 with an offset, or a date alone: then its midnight in UTC */
                to: string;
            };
            header?: never;
            path: {
                type: string;
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description What is free */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** Format: date-time */
                        from: string;
                        /** Format: date-time */
                        to: string;
                        /** @description Half-open ranges, in order */
                        free: {
                            /** Format: date-time */
                            from: string;
                            /** Format: date-time */
                            to: string;
                        }[];
                    };
                };
            };
        };
    };
    streamEvents: {
        parameters: {
            query?: {
                /** @description Only of this resource */
                resource?: string;
                type?: "purchase.held" | "purchase.confirmed" | "purchase.rejected" | "purchase.failed" | "purchase.cancelled" | "purchase.expired" | "purchase.refunded" | "booking.requested" | "booking.accepted" | "booking.completed" | "booking.rejected" | "booking.declined" | "booking.cancelled" | "booking.expired" | "payment.refunded" | "payment.refund_failed" | "payment.lost" | "payment.dispute_opened" | "payment.dispute_won" | "payment.dispute_lost" | "resource.restocked";
                /** @description As Last-Event-ID, which comes first */
                after?: string;
                /** @description Ends after so many */
                limit?: number;
            };
            header?: {
                "last-event-id"?: string;
            };
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Events, as they come */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": string;
                };
            };
        };
    };
    listWebhookEndpoints: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description All of them */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: components["schemas"]["WebhookEndpoint"][];
                    };
                };
            };
        };
    };
    createWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description https, without user and fragment */
                    url: string;
                    /** @description Types; absent: all */
                    events?: ("purchase.held" | "purchase.confirmed" | "purchase.rejected" | "purchase.failed" | "purchase.cancelled" | "purchase.expired" | "purchase.refunded" | "booking.requested" | "booking.accepted" | "booking.completed" | "booking.rejected" | "booking.declined" | "booking.cancelled" | "booking.expired" | "payment.refunded" | "payment.refund_failed" | "payment.lost" | "payment.dispute_opened" | "payment.dispute_won" | "payment.dispute_lost" | "resource.restocked")[];
                    /** @description Only of this resource; absent: all */
                    resource?: string;
                };
            };
        };
        responses: {
            /** @description Registered */
            201: {
                headers: {
                    /** @description Where it is from now on */
                    location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: uuid */
                        id: string;
                        url: string;
                        events: string[] | null;
                        resource: string | null;
                        /** @description Why nothing is sent any more; null: it is */
                        disabled: string | null;
                        /**
                         * Format: date-time
                         * @description Until then the old secret signs too
                         */
                        old_secret_until: string | null;
                        /** @description Events that it is still to be told of */
                        behind: number;
                        /**
                         * Format: date-time
                         * @description Of the event that fails for longest
                         */
                        failing_since: string | null;
                        /** Format: date-time */
                        created_at: string;
                        /** @description Shown this once; `whsec_` and base64, as Standard Webhooks has it */
                        secret: string;
                    };
                };
            };
        };
    };
    getWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The endpoint */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    deleteWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The endpoint as it was */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    rotateWebhookSecret: {
        parameters: {
            query?: {
                /** @description Seconds that the old one signs too; 0 when it has leaked */
                overlap_s?: number;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description With its new secret */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: uuid */
                        id: string;
                        url: string;
                        events: string[] | null;
                        resource: string | null;
                        /** @description Why nothing is sent any more; null: it is */
                        disabled: string | null;
                        /**
                         * Format: date-time
                         * @description Until then the old secret signs too
                         */
                        old_secret_until: string | null;
                        /** @description Events that it is still to be told of */
                        behind: number;
                        /**
                         * Format: date-time
                         * @description Of the event that fails for longest
                         */
                        failing_since: string | null;
                        /** Format: date-time */
                        created_at: string;
                        /** @description Shown this once; `whsec_` and base64, as Standard Webhooks has it */
                        secret: string;
                    };
                };
            };
        };
    };
    enableWebhookEndpoint: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description It is told again */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    listWebhookDeliveries: {
        parameters: {
            query?: {
                resource?: string;
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            id: number;
                            /** @description The id of the event: the header webhook-id */
                            event: string;
                            type: string;
                            resource: string;
                            sequence: number;
                            attempt: number;
                            /** @description What was answered; null: nothing */
                            status: number | null;
                            error: string | null;
                            duration_ms: number;
                            /** Format: date-time */
                            created_at: string;
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    replayWebhooks: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    resource?: string;
                    sequence?: number;
                    /** @description Instead: from the event of this delivery on */
                    delivery?: number;
                };
            };
        };
        responses: {
            /** @description It will be told */
            202: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["WebhookEndpoint"];
                };
            };
        };
    };
    acquireLease: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    /** @description `type:id`: whatever both sides call what they share; it need not exist as a resource for sale */
                    resource: string;
                    /** @description The lease ends so long after its last heartbeat: twice the longest pause of its holder */
                    ttl_ms: number;
                    /** @description How long to stand in line; 0 (default): one try */
                    wait_ms?: number;
                    /**
                     * Format: identifier
                     * @description Told to those who find the lock taken: a host, a process, a job
                     */
                    owner: string;
                    /** @enum {unknown} */
                    mode: "exclusive" | "shared";
                } | {
                    /** @description `type:id`: whatever both sides call what they share; it need not exist as a resource for sale */
                    resource: string;
                    /** @description The lease ends so long after its last heartbeat: twice the longest pause of its holder */
                    ttl_ms: number;
                    /** @description How long to stand in line; 0 (default): one try */
                    wait_ms?: number;
                    /**
                     * Format: identifier
                     * @description Told to those who find the lock taken: a host, a process, a job
                     */
                    owner: string;
                    /** @enum {string} */
                    mode: "permit";
                    /** @description How many may hold a permit at once */
                    limit: number;
                };
            };
        };
        responses: {
            /** @description Taken */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @description Who knows it is the owner: keep it secret */
                        lease_id: string;
                        resource: string;
                        /** @enum {unknown} */
                        mode: "exclusive" | "shared" | "permit";
                        /** @description Higher than every token given for the resource before */
                        fencing_token: number;
                        /**
                         * Format: date-time
                         * @description Unless it is renewed before; not later than in truth
                         */
                        expires_at: string;
                    };
                };
            };
        };
    };
    renewLease: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                lease_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Renewed */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @description Who knows it is the owner: keep it secret */
                        lease_id: string;
                        resource: string;
                        /** @enum {unknown} */
                        mode: "exclusive" | "shared" | "permit";
                        /** @description Higher than every token given for the resource before */
                        fencing_token: number;
                        /**
                         * Format: date-time
                         * @description Unless it is renewed before; not later than in truth
                         */
                        expires_at: string;
                    };
                };
            };
        };
    };
    releaseLease: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                lease_id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Released */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
        };
    };
    listLocks: {
        parameters: {
            query?: {
                limit?: number;
                /** @description next_cursor of the page before */
                cursor?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description One page */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        data: {
                            resource: string;
                            /** @description The last token given, or what a forced release left; 0 when none is remembered */
                            fencing_token: number;
                            holders: {
                                /** @description host:pid and job, or what a lease over HTTP was taken with */
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                fencing_token: number;
                                /** Format: date-time */
                                since: string;
                                /** @description The lock ends then, unless it is renewed */
                                ttl_left_ms: number;
                            }[];
                            /** @description In the order of their turns */
                            waiters: {
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                /** Format: date-time */
                                since: string;
                            }[];
                        }[];
                        next_cursor: string | null;
                    };
                };
            };
        };
    };
    getLockStats: {
        parameters: {
            query?: {
                hours?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The last hours, the present one included */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /**
                         * Format: date-time
                         * @description The full hour from which on everything is counted
                         */
                        since: string;
                        acquisitions: number;
                        /** @description timeouts + aborted + unreachable */
                        failures: number;
                        /** @description Still busy when the wait was over, or at once without one */
                        timeouts: number;
                        /** @description The caller went away or stopped */
                        aborted: number;
                        /** @description The lock server did not answer */
                        unreachable: number;
                        /** @description Found the lock taken */
                        contentions: number;
                        /** @description Ended before they were released */
                        lost: number;
                        /** @description Writes of superseded holders that Postgres refused */
                        fencing_rejections: number;
                        /** @description acquisitions / (acquisitions + failures) */
                        success_rate: number | null;
                        wait_ms: {
                            p50: number | null;
                            p95: number | null;
                            p99: number | null;
                        };
                        hold_ms: {
                            p50: number | null;
                            p95: number | null;
                            p99: number | null;
                        };
                    };
                };
            };
        };
    };
    getLock: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description `type:id` */
                resource: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The lock */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** @description The last token given, or what a forced release left; 0 when none is remembered */
                        fencing_token: number;
                        holders: {
                            /** @description host:pid and job, or what a lease over HTTP was taken with */
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            fencing_token: number;
                            /** Format: date-time */
                            since: string;
                            /** @description The lock ends then, unless it is renewed */
                            ttl_left_ms: number;
                        }[];
                        /** @description In the order of their turns */
                        waiters: {
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            /** Format: date-time */
                            since: string;
                        }[];
                    };
                };
            };
        };
    };
    takeLockAway: {
        parameters: {
            query?: {
                /** @description For the record */
                reason?: string;
            };
            header?: never;
            path: {
                /** @description `type:id` */
                resource: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Taken away */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        resource: string;
                        /** @description Every later token is higher; no write below it is accepted */
                        fencing_token: number;
                        /** @description Empty when nobody had the lock */
                        revoked_holders: {
                            /** @description host:pid and job, or what a lease over HTTP was taken with */
                            owner: string;
                            /** @enum {unknown} */
                            mode: "exclusive" | "shared" | "permit";
                            limit?: number;
                            fencing_token: number;
                            /** Format: date-time */
                            since: string;
                            /** @description The lock ends then, unless it is renewed */
                            ttl_left_ms: number;
                        }[];
                    };
                };
            };
        };
    };
    getDashboard: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description How it is now */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** Format: date-time */
                        at: string;
                        /** @description The lab is there */
                        lab: boolean;
                        /** @description The first of each type, and those with a line or a lease; null when it could not be asked */
                        resources: components["schemas"]["Resource"][] | null;
                        /** @description The lines whose heads wait longest; null when it could not be asked */
                        lines: {
                            resource: string;
                            /** @description Purchases, bookings and commands; counted to 10000 */
                            length: number;
                            /** @description There are more than that */
                            more: boolean;
                            /** @description Since its head has come */
                            oldest_ms: number;
                        }[] | null;
                        /** @description Lines beside those; at most 500 are looked at */
                        more_lines: number;
                        /** @description Who holds what, and who waits; null when it could not be asked */
                        locks: {
                            resource: string;
                            /** @description The last token given, or what a forced release left; 0 when none is remembered */
                            fencing_token: number;
                            holders: {
                                /** @description host:pid and job, or what a lease over HTTP was taken with */
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                fencing_token: number;
                                /** Format: date-time */
                                since: string;
                                /** @description The lock ends then, unless it is renewed */
                                ttl_left_ms: number;
                            }[];
                            /** @description In the order of their turns */
                            waiters: {
                                owner: string;
                                /** @enum {unknown} */
                                mode: "exclusive" | "shared" | "permit";
                                limit?: number;
                                /** Format: date-time */
                                since: string;
                            }[];
                        }[] | null;
                        /** @description Locks beside those */
                        more_locks: number;
                        pace: {
                            /** Format: date-time */
                            at: string;
                            /** @description Settled by the whole fleet since the sample before; null while no stream is open */
                            per_second: number | null;
                            /** @description From request to settlement; null when nothing was settled */
                            wait_p50_ms: number | null;
                            wait_p95_ms: number | null;
                        };
                        breakers: {
                            /** @description `api` is the process that answers; workers are host:pid */
                            process: string;
                            breakers: {
                                [key: string]: "closed" | "half_open" | "open";
                            };
                        }[];
                        /** @description The verifier's last word on the quick invariants; null when there is none that still counts */
                        verdict: {
                            /** Format: date-time */
                            at: string;
                            broken: {
                                invariant: string;
                                offenders: string[];
                            }[];
                        } | null;
                    };
                    "text/event-stream": string;
                };
            };
        };
    };
}

/** Operations that take an Idempotency-Key. */
export const KEYED: ReadonlySet<string> = new Set([
  'POST /api/resources/{type}/{id}/restock',
  'POST /api/purchases',
  'POST /api/purchases/{id}/confirm',
  'POST /api/purchases/{id}/cancel',
  'POST /api/purchases/{id}/refund',
  'POST /api/bookings',
  'POST /api/bookings/{id}/accept',
  'POST /api/bookings/{id}/decline',
  'POST /api/bookings/{id}/cancel',
  'POST /api/bookings/{id}/complete',
])
