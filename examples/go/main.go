// Prints the user of a session token: go run . 127.0.0.1:50051 tms_…
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	authv1 "auth.example/gen/tamatar/auth/v1"
)

func main() {
	address, token := os.Args[1], os.Args[2]
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	valid, err := authv1.NewSessionServiceClient(conn).ValidateSession(ctx, &authv1.ValidateSessionRequest{SessionToken: token})
	if err != nil {
		fmt.Println(status.Code(err), reason(err))
		return
	}
	fmt.Println(valid.User.Email)
}

// reason returns the name of the reason, which never changes; the message is for people.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}
