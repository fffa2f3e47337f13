ALTER TABLE "charges" DROP CONSTRAINT "charges_status_check";--> statement-breakpoint
ALTER TABLE "charges" ADD COLUMN "hold_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "commands" ADD COLUMN "payment" jsonb;--> statement-breakpoint
ALTER TABLE "charges" ADD CONSTRAINT "charges_status_check" CHECK (CASE "charges"."purpose" WHEN 'charge' THEN "charges"."status" IN ('pending', 'sent', 'authorized', 'capturing', 'captured',
        'declined', 'unavailable', 'released', 'lost') WHEN 'refund' THEN "charges"."status" IN ('pending', 'refunded', 'released', 'failed')
        WHEN 'dispute' THEN "charges"."status" IN ('open', 'won', 'lost')
        WHEN 'attempt' THEN "charges"."status" IN ('declined', 'unavailable') ELSE false END);