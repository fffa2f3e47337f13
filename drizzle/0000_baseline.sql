CREATE SEQUENCE "public"."queue_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1;--> statement-breakpoint
CREATE TABLE "bookings" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('queue_seq') NOT NULL,
	"kind" text DEFAULT 'stay' NOT NULL,
	"resource_id" text COLLATE "C" NOT NULL,
	"customer" text DEFAULT '' NOT NULL,
	"period" "tstzrange" NOT NULL,
	"days" integer,
	"pickup" jsonb,
	"amount" bigint,
	"currency" text,
	"payment" jsonb DEFAULT '{"method":"none"}'::jsonb NOT NULL,
	"hold_seconds" integer,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"conflicting_ids" jsonb,
	"fencing_token" bigint,
	"expires_at" timestamp with time zone,
	"replaces_id" uuid,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"request_hash" text,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "bookings_kind_check" CHECK ("bookings"."kind" IN ('stay', 'ride')),
	CONSTRAINT "bookings_days_check" CHECK ("bookings"."days" > 0),
	CONSTRAINT "bookings_period_check" CHECK (NOT isempty("bookings"."period")),
	CONSTRAINT "bookings_status_check" CHECK ("bookings"."status" IN ('queued', 'requested', 'accepted', 'completed', 'rejected', 'declined', 'cancelled', 'expired'))
);
--> statement-breakpoint
CREATE TABLE "charges" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"purchase_id" uuid,
	"booking_id" uuid,
	"kind" text NOT NULL,
	"n" smallint DEFAULT 1 NOT NULL,
	"at_provider" boolean DEFAULT false NOT NULL,
	"provider_id" text,
	"amount" bigint DEFAULT 0 NOT NULL,
	"currency" text DEFAULT 'USD' NOT NULL,
	"attempts" smallint DEFAULT 0 NOT NULL,
	"status" text DEFAULT 'pending' NOT NULL,
	"reason" text,
	"next_attempt_at" timestamp with time zone DEFAULT clock_timestamp() + interval '2 seconds' NOT NULL,
	"recheck_at" timestamp with time zone,
	"hold_until" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "charges_subject_check" CHECK (num_nonnulls("charges"."purchase_id", "charges"."booking_id") = 1),
	CONSTRAINT "charges_amount_check" CHECK ("charges"."amount" > 0),
	CONSTRAINT "charges_status_check" CHECK (CASE "charges"."kind" WHEN 'charge' THEN "charges"."status" IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'captured',
        'declined', 'unavailable', 'released', 'authorization_lost') WHEN 'refund' THEN "charges"."status" IN ('pending', 'refunded', 'released', 'failed')
        WHEN 'dispute' THEN "charges"."status" IN ('open', 'won', 'lost')
        WHEN 'attempt' THEN "charges"."status" IN ('declined', 'unavailable') ELSE false END)
);
--> statement-breakpoint
CREATE TABLE "commands" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('queue_seq') NOT NULL,
	"queue" text COLLATE "C" NOT NULL,
	"purchase_id" uuid,
	"booking_id" uuid,
	"action" text NOT NULL,
	"payment" jsonb,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"observed_status" text,
	"fencing_token" bigint,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "commands_subject_check" CHECK (num_nonnulls("commands"."purchase_id", "commands"."booking_id") = 1),
	CONSTRAINT "commands_action_check" CHECK ("commands"."action" IN ('confirm', 'cancel', 'refund', 'paid', 'unpaid') OR "commands"."booking_id" IS NOT NULL AND "commands"."action" IN ('accept', 'decline', 'complete')),
	CONSTRAINT "commands_status_check" CHECK ("commands"."status" IN ('queued', 'done', 'rejected'))
);
--> statement-breakpoint
CREATE TABLE "customer_holdings" (
	"resource_id" text COLLATE "C" NOT NULL,
	"customer" text NOT NULL,
	"units" bigint NOT NULL,
	CONSTRAINT "customer_holdings_resource_id_customer_pk" PRIMARY KEY("resource_id","customer"),
	CONSTRAINT "customer_holdings_units_check" CHECK ("customer_holdings"."units" >= 0)
);
--> statement-breakpoint
CREATE TABLE "forced_releases" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "forced_releases_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource_id" text COLLATE "C" NOT NULL,
	"requested_by" text NOT NULL,
	"reason" text,
	"revoked_holders" jsonb,
	"fencing_token" bigint,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"completed_at" timestamp with time zone,
	CONSTRAINT "forced_releases_completed_check" CHECK ("forced_releases"."completed_at" IS NULL OR ("forced_releases"."fencing_token" IS NOT NULL AND "forced_releases"."revoked_holders" IS NOT NULL))
);
--> statement-breakpoint
CREATE TABLE "lab_counts" (
	"id" text COLLATE "C" PRIMARY KEY NOT NULL,
	"initial" bigint NOT NULL,
	"unsafe_count" bigint NOT NULL,
	"last_variant" text,
	CONSTRAINT "lab_counts_last_variant_check" CHECK ("lab_counts"."last_variant" IN ('unsafe', 'safe'))
);
--> statement-breakpoint
CREATE TABLE "lab_drivers" (
	"id" text PRIMARY KEY NOT NULL,
	"rider" text,
	"rides" integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE "lab_orders" (
	"id" text PRIMARY KEY NOT NULL,
	"guarded_by" smallint,
	"unguarded_by" smallint,
	"unguarded_writes" integer DEFAULT 0 NOT NULL,
	"fencing_token" bigint DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE "ledger_entries" (
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "ledger_entries_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource_id" text COLLATE "C" NOT NULL,
	"purchase_id" uuid,
	"booking_id" uuid,
	"delta" bigint NOT NULL,
	"reason" text NOT NULL,
	"fencing_token" bigint,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "ledger_entries_resource_id_id_pk" PRIMARY KEY("resource_id","id")
);
--> statement-breakpoint
CREATE TABLE "outbox" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "outbox_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource_id" text COLLATE "C" NOT NULL,
	"subject_type" text NOT NULL,
	"last_sequence" bigint NOT NULL,
	"subject_ids" uuid[] NOT NULL,
	"statuses" text[] NOT NULL,
	"reasons" text[] NOT NULL,
	"delta" bigint,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "outbox_subject_type_check" CHECK ("outbox"."subject_type" IN ('purchase', 'booking', 'payment', 'resource'))
);
--> statement-breakpoint
CREATE TABLE "outbox_retention" (
	"one" boolean PRIMARY KEY DEFAULT true NOT NULL,
	"pruned_through_id" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "outbox_retention_one_check" CHECK ("outbox_retention"."one")
);
--> statement-breakpoint
CREATE TABLE "outbox_sequences" (
	"resource_id" text COLLATE "C" PRIMARY KEY NOT NULL,
	"last_sequence" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "purchases" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"seq" bigint DEFAULT nextval('queue_seq') NOT NULL,
	"queue" text COLLATE "C" NOT NULL,
	"customer" text DEFAULT '' NOT NULL,
	"items" jsonb NOT NULL,
	"amount" bigint,
	"currency" text,
	"payment" jsonb DEFAULT '{"method":"none"}'::jsonb NOT NULL,
	"hold_seconds" integer,
	"status" text DEFAULT 'queued' NOT NULL,
	"reason" text,
	"observed" jsonb,
	"fencing_token" bigint,
	"expires_at" timestamp with time zone,
	"replaces_id" uuid,
	"idempotency_key" text,
	"idempotency_scope" text DEFAULT '' NOT NULL,
	"request_hash" text,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"settled_at" timestamp with time zone,
	CONSTRAINT "purchases_status_check" CHECK ("purchases"."status" IN ('queued', 'held', 'confirmed', 'rejected', 'failed', 'cancelled', 'expired', 'refunded')),
	CONSTRAINT "purchases_items_check" CHECK (jsonb_typeof("purchases"."items") = 'array'),
	CONSTRAINT "purchases_held_check" CHECK ("purchases"."status" <> 'held' OR "purchases"."expires_at" IS NOT NULL)
);
--> statement-breakpoint
CREATE TABLE "resources" (
	"id" text COLLATE "C" PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"name" text DEFAULT '' NOT NULL,
	"total" bigint DEFAULT 0 NOT NULL,
	"available" bigint DEFAULT 0 NOT NULL,
	"held" bigint DEFAULT 0 NOT NULL,
	"price" bigint DEFAULT 0 NOT NULL,
	"currency" text DEFAULT 'USD' NOT NULL,
	"max_per_customer" bigint,
	"limit_set_at" timestamp with time zone,
	"version" integer DEFAULT 1 NOT NULL,
	"fencing_token" bigint DEFAULT 0 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "resources_available_check" CHECK ("resources"."available" BETWEEN 0 AND "resources"."total"),
	CONSTRAINT "resources_held_check" CHECK ("resources"."held" >= 0 AND "resources"."available" + "resources"."held" <= "resources"."total"),
	CONSTRAINT "resources_kind_check" CHECK ("resources"."kind" IN ('units', 'calendar')),
	CONSTRAINT "resources_price_check" CHECK ("resources"."price" >= 0),
	CONSTRAINT "resources_limit_check" CHECK ("resources"."max_per_customer" IS NULL OR ("resources"."max_per_customer" > 0 AND "resources"."limit_set_at" IS NOT NULL))
);
--> statement-breakpoint
CREATE TABLE "webhook_deliveries" (
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "webhook_deliveries_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"endpoint_id" uuid NOT NULL,
	"event" text NOT NULL,
	"type" text NOT NULL,
	"resource_id" text COLLATE "C" NOT NULL,
	"sequence" bigint NOT NULL,
	"attempt" integer NOT NULL,
	"status" integer,
	"error" text,
	"duration_ms" integer NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "webhook_deliveries_endpoint_id_id_pk" PRIMARY KEY("endpoint_id","id")
);
--> statement-breakpoint
CREATE TABLE "webhook_endpoints" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"url" text NOT NULL,
	"events" jsonb,
	"resource_id" text COLLATE "C",
	"secret" text NOT NULL,
	"previous_secret" text,
	"previous_secret_expires_at" timestamp with time zone,
	"disabled_reason" text,
	"outbox_position" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	CONSTRAINT "webhook_endpoints_secret_check" CHECK (("webhook_endpoints"."previous_secret" IS NULL) = ("webhook_endpoints"."previous_secret_expires_at" IS NULL))
);
--> statement-breakpoint
CREATE TABLE "webhook_streams" (
	"endpoint_id" uuid NOT NULL,
	"resource_id" text COLLATE "C" NOT NULL,
	"delivered_sequence" bigint NOT NULL,
	"outbox_id" bigint NOT NULL,
	"last_sequence" bigint NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"failing_since" timestamp with time zone,
	"next_attempt_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"fencing_token" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "webhook_streams_endpoint_id_resource_id_pk" PRIMARY KEY("endpoint_id","resource_id"),
	CONSTRAINT "webhook_streams_sequence_check" CHECK ("webhook_streams"."delivered_sequence" <= "webhook_streams"."last_sequence")
);
--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_purchase_id_purchases_id_fk" FOREIGN KEY ("purchase_id") REFERENCES "public"."purchases"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_booking_id_bookings_id_fk" FOREIGN KEY ("booking_id") REFERENCES "public"."bookings"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_purchase_id_purchases_id_fk" FOREIGN KEY ("purchase_id") REFERENCES "public"."purchases"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "commands" ADD CONSTRAINT "commands_booking_id_bookings_id_fk" FOREIGN KEY ("booking_id") REFERENCES "public"."bookings"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_deliveries" ADD CONSTRAINT "webhook_deliveries_endpoint_id_webhook_endpoints_id_fk" FOREIGN KEY ("endpoint_id") REFERENCES "public"."webhook_endpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "webhook_streams" ADD CONSTRAINT "webhook_streams_endpoint_id_webhook_endpoints_id_fk" FOREIGN KEY ("endpoint_id") REFERENCES "public"."webhook_endpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_idempotency_key" ON "bookings" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_replaces_id" ON "bookings" USING btree ("replaces_id") WHERE replaces_id IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "bookings_active_ride" ON "bookings" USING btree ("customer") WHERE kind = 'ride' AND status IN ('requested', 'accepted');--> statement-breakpoint
CREATE INDEX "bookings_queued" ON "bookings" USING btree ("resource_id","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "bookings_by_resource" ON "bookings" USING btree ("resource_id","id");--> statement-breakpoint
CREATE INDEX "bookings_by_customer" ON "bookings" USING btree ("customer","id");--> statement-breakpoint
CREATE INDEX "bookings_requested" ON "bookings" USING btree ("resource_id","expires_at") WHERE status = 'requested';--> statement-breakpoint
CREATE INDEX "bookings_requested_until" ON "bookings" USING btree ("expires_at") WHERE status = 'requested';--> statement-breakpoint
CREATE UNIQUE INDEX "charges_effect" ON "charges" USING btree ("purchase_id","kind","n");--> statement-breakpoint
CREATE UNIQUE INDEX "charges_booking_effect" ON "charges" USING btree ("booking_id","kind","n");--> statement-breakpoint
CREATE UNIQUE INDEX "charges_provider" ON "charges" USING btree ("provider_id","kind") WHERE provider_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "charges_due" ON "charges" USING btree ("next_attempt_at") WHERE status IN ('pending', 'confirming', 'cancelling', 'authorized', 'capturing', 'failed') AND NOT at_provider;--> statement-breakpoint
CREATE INDEX "charges_recheck" ON "charges" USING btree ("recheck_at") WHERE status = 'captured' AND recheck_at IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "commands_idempotency_key" ON "commands" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "commands_queued" ON "commands" USING btree ("queue","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "commands_by_purchase" ON "commands" USING btree ("purchase_id");--> statement-breakpoint
CREATE INDEX "forced_releases_by_resource" ON "forced_releases" USING btree ("resource_id","id");--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_entries_effect" ON "ledger_entries" USING btree ("resource_id","purchase_id","reason") WHERE purchase_id IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_entries_booking_effect" ON "ledger_entries" USING btree ("resource_id","booking_id","reason") WHERE booking_id IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_entries_idempotency_key" ON "ledger_entries" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "outbox_by_resource" ON "outbox" USING btree ("resource_id","id");--> statement-breakpoint
CREATE UNIQUE INDEX "purchases_idempotency_key" ON "purchases" USING btree ("idempotency_key","idempotency_scope") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "purchases_replaces_id" ON "purchases" USING btree ("replaces_id") WHERE replaces_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "purchases_queued" ON "purchases" USING btree ("queue","seq") WHERE status = 'queued';--> statement-breakpoint
CREATE INDEX "purchases_by_queue" ON "purchases" USING btree ("queue","id");--> statement-breakpoint
CREATE INDEX "purchases_by_customer" ON "purchases" USING btree ("customer","id");--> statement-breakpoint
CREATE INDEX "purchases_held_items" ON "purchases" USING gin (items jsonb_path_ops) WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_held_wallets" ON "purchases" USING btree ((payment ->> 'account')) WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_held_expires_at" ON "purchases" USING btree ("expires_at") WHERE status = 'held';--> statement-breakpoint
CREATE INDEX "purchases_multi_item" ON "purchases" USING gin (items jsonb_path_ops) WHERE jsonb_array_length(items) > 1;--> statement-breakpoint
CREATE INDEX "webhook_deliveries_by_time" ON "webhook_deliveries" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "webhook_streams_due" ON "webhook_streams" USING btree ("next_attempt_at") WHERE delivered_sequence < last_sequence;