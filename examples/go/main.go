// Validates sessions: ./run --address auth.example.com:50051 --token-file caller.token
//
// Reads session tokens from standard input, one a line, and prints a line for each: the user's
// address, or why the session is not valid. With --email it reads a password, and signs in first.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // checks the health of servers, as the service config says
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	authv1 "auth.example/gen/tamatar/auth/v1"
)

// Deadlines, retries, and calls to all servers in turn. The build copies it from protos/.
//
//go:embed gen/grpc_service_config.json
var serviceConfig string

var (
	address   = flag.String("address", "", "the service: a `host:port` or another target of gRPC")
	plaintext = flag.Bool("plaintext", false, "use no TLS, for a service on this machine")
	ca        = flag.String("ca", "", "a `file` with the CA certificates to trust; the system's by default")
	tokenFile = flag.String("token-file", "", "a `file` with the token of this caller")
	email     = flag.String("email", "", "sign in with this `address`")
)

func main() {
	flag.Parse()
	if *address == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	conn, err := connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Cannot connect:", err)
		os.Exit(2)
	}
	defer conn.Close()
	sessions := authv1.NewSessionServiceClient(conn)
	exitCode := 0
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := validate(sessions, lines.Text())
		if err != nil {
			answer, exitCode = reason(err), 1
		}
		fmt.Println(answer)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "Cannot read the other lines:", err)
		os.Exit(2)
	}
	os.Exit(exitCode)
}

// connect returns a connection to all servers that the address stands for.
func connect() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		// A server that does not answer a ping is left, and its calls go to the others.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 4 * time.Second}),
	}
	switch {
	case *plaintext && (*ca != "" || *tokenFile != ""):
		return nil, errors.New("--plaintext cannot protect a token: leave out --ca and --token-file")
	case *plaintext:
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	case *ca != "":
		trusted, err := credentials.NewClientTLSFromFile(*ca, "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", *ca, err)
		}
		options = append(options, grpc.WithTransportCredentials(trusted))
	default:
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	}
	if *tokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(callerToken(*tokenFile)))
	}
	return grpc.NewClient(*address, options...)
}

// validate returns the address of the user whose session token, or password, this is.
func validate(sessions authv1.SessionServiceClient, secret string) (string, error) {
	ctx := context.Background() // the service config has the deadlines
	if *email != "" {
		started, err := sessions.CreateSession(ctx, &authv1.CreateSessionRequest{
			Identifier: &authv1.CreateSessionRequest_Email{Email: *email}, Password: secret,
		})
		if err != nil {
			return "", err
		}
		secret = started.SessionToken
	}
	valid, err := sessions.ValidateSession(ctx, &authv1.ValidateSessionRequest{SessionToken: secret})
	if err != nil {
		return "", err
	}
	return valid.GetUser().GetEmail(), nil
}

// reason returns the service's reason, which never changes, and the message, which is for people.
// A call that the service did not answer has a status instead of a reason.
func reason(err error) string {
	failed := status.Convert(err)
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason + ": " + failed.Message()
		}
	}
	return failed.Code().String() + ": " + failed.Message()
}

// callerToken is the path of a file with a token. It is read for each call, so that a rotated
// token is used at once.
type callerToken string

func (file callerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := os.ReadFile(string(file))
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(text))}, nil
}

func (callerToken) RequireTransportSecurity() bool { return true }
